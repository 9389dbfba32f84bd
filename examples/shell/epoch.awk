# Reads a model (step, loss, then a weight a line) if there is one, and data; prints the model after one epoch of gradient descent.
BEGIN { if ((getline line <ARGV[1]) >= 0) { getline line <ARGV[1]; while ((getline line <ARGV[1]) > 0) weight[n++] = line } ARGV[1] = "" }
{
    sum = weight[0]
    for (i = 2; i <= NF; i++) sum += weight[i - 1] * $i
    chance = 1 / (1 + exp(-sum)); wanted = $1 >= 5
    loss -= log(wanted ? chance : 1 - chance)
    gradient[0] += chance - wanted
    for (i = 2; i <= NF; i++) gradient[i - 1] += (chance - wanted) * $i
}
END {
    printf "%d\n%.9g\n", step, loss / NR
    for (i = 0; i < NF; i++) printf "%.17g\n", weight[i] - 0.5 * gradient[i] / NR
}
