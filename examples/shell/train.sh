#!/bin/sh
# Logistic regression in awk, one epoch a step: is a digit 5 or more? sh train.sh /ckpt digits.csv
set -eu
directory=$1 data=$2
model=$directory/model step=0
[ ! -e "$model" ] || read -r step <"$model"             # the first line of the model

while [ "$step" -lt 40 ]; do
    step=$((step + 1))
    awk -F, -v step="$step" -f epoch.awk "$model" "$data" >"$directory/new"
    mv "$directory/new" "$model"
    loss=$(sed -n 2p "$model")
    if [ $((step % 4)) -eq 0 ]; then
        echo "step=$step loss=$loss" >"$directory/.save"   # one version; the text is its note
    fi
    echo "step $step loss $loss"
done
