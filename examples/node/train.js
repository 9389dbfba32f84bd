// A network with one hidden layer, 64 images a step: node train.js /ckpt digits.csv. Only what comes with Node.
'use strict';
const fs = require('fs');
const path = require('path');

const [directory, data] = process.argv.slice(2);
const [STEPS, EVERY, BATCH, RATE, HIDDEN, CLASSES] = [120, 10, 64, 0.5, 32, 10];
const file = path.join(directory, 'model.json');

const rows = fs.readFileSync(data, 'utf8').trim().split('\n').map((line) => line.split(',').map(Number));
const pixels = rows[0].length - 1;

let model = { step: 0, first: fresh(HIDDEN, pixels + 1), second: fresh(CLASSES, HIDDEN + 1) };
if (fs.existsSync(file)) model = JSON.parse(fs.readFileSync(file));

while (model.step < STEPS) {
  const batch = Array.from({ length: BATCH }, (_, i) => rows[(model.step * BATCH + i) % rows.length]);
  const loss = learn(batch);
  model.step += 1;
  if (model.step % EVERY === 0) save(loss);
  fs.writeSync(1, `step ${model.step} loss ${loss}\n`);
}

function save(loss) {
  fs.writeFileSync(`${file}.new`, JSON.stringify(model));
  fs.renameSync(`${file}.new`, file);
  fs.writeFileSync(path.join(directory, '.save'), JSON.stringify({ step: model.step, loss })); // one version
}

// Weights that differ, the same in every run.
function fresh(outputs, inputs) {
  return Array.from({ length: outputs }, (_, o) =>
    Array.from({ length: inputs }, (_, i) => Math.sin(1 + o * inputs + i) / Math.sqrt(inputs)));
}

// Follows the gradient of a batch; returns its loss.
function learn(batch) {
  const first = model.first.map((row) => row.map(() => 0));
  const second = model.second.map((row) => row.map(() => 0));
  let loss = 0;
  for (const [label, ...image] of batch) {
    const input = [...image, 1];
    const hidden = [...model.first.map((row) => Math.tanh(dot(row, input))), 1];
    const scores = model.second.map((row) => Math.exp(dot(row, hidden)));
    const sum = scores.reduce((a, b) => a + b);
    loss -= Math.log(scores[label] / sum) / batch.length;
    const wrong = scores.map((score, c) => (score / sum - (c === label ? 1 : 0)) / batch.length);
    wrong.forEach((w, c) => hidden.forEach((h, j) => { second[c][j] += w * h; }));
    for (let j = 0; j < HIDDEN; j += 1) {
      const back = (1 - hidden[j] ** 2) * wrong.reduce((total, w, c) => total + w * model.second[c][j], 0);
      input.forEach((x, i) => { first[j][i] += back * x; });
    }
  }
  [[model.first, first], [model.second, second]].forEach(([weights, gradient]) =>
    weights.forEach((row, o) => row.forEach((_, i) => { row[i] -= RATE * gradient[o][i]; })));
  return loss;
}

function dot(left, right) {
  let sum = 0;
  for (let i = 0; i < left.length; i += 1) sum += left[i] * right[i];
  return sum;
}
