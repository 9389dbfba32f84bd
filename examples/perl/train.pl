#!/usr/bin/perl
# Softmax regression, 48 images a step: perl train.pl /ckpt digits.csv. Only what comes with Perl.
use strict;
use warnings;
use JSON::PP;
use Storable qw(store retrieve);

my ($directory, $data) = @ARGV;
my ($steps, $every, $batch, $rate) = (80, 5, 48, 0.5);
$| = 1;

open my $file, '<', $data or die "$data: $!";
my @rows = map { chomp; [split /,/] } <$file>;

my $model = { step => 0, weight => [map { [(0) x @{ $rows[0] }] } 0 .. 9] };
$model = retrieve("$directory/model") if -e "$directory/model";

while ($model->{step} < $steps) {
    my $loss = learn(map { $rows[($model->{step} * $batch + $_) % @rows] } 0 .. $batch - 1);
    $model->{step}++;
    save($loss) if $model->{step} % $every == 0;
    print "step $model->{step} loss $loss\n";
}

sub save {
    my ($loss) = @_;
    # nstore would keep 15 digits of a number
    store($model, "$directory/model.new");
    rename "$directory/model.new", "$directory/model" or die "model: $!";
    open my $marker, '>', "$directory/.save" or die ".save: $!";
    print $marker encode_json({ step => $model->{step}, loss => $loss });
    close $marker or die ".save: $!";    # here the version is captured
}

# Follows the gradient of some rows (label, then pixels; the label's place holds the bias); returns their loss.
sub learn {
    my @batch = @_;
    my $loss = 0;
    my @change = map { [(0) x @{ $batch[0] }] } 0 .. 9;
    for my $row (@batch) {
        my ($label, @pixel) = (@$row);
        my @input = (1, @pixel);
        my @chance = softmax(map { dot($_, \@input) } @{ $model->{weight} });
        $loss -= log($chance[$label]) / @batch;
        for my $class (0 .. 9) {
            my $wrong = $rate / @batch * ($chance[$class] - ($class == $label ? 1 : 0));
            $change[$class][$_] += $wrong * $input[$_] for 0 .. $#input;
        }
    }
    for my $class (0 .. 9) {
        $model->{weight}[$class][$_] -= $change[$class][$_] for 0 .. $#{ $change[$class] };
    }
    return $loss;
}

sub dot {
    my ($left, $right) = @_;
    my $sum = 0;
    $sum += $left->[$_] * $right->[$_] for 0 .. $#$left;
    return $sum;
}

sub softmax {
    my @part = map { exp } @_;
    my $sum = 0;
    $sum += $_ for @part;
    return map { $_ / $sum } @part;
}
