// A trainer that knows nothing of ckptfs: it goes on from the newest state.json, writes files, and touches .save.
//
//     node train.js DIRECTORY [STEPS]
const fs = require("node:fs");
const path = require("node:path");

const [directory, steps = "3"] = process.argv.slice(2);
const stateFile = path.join(directory, "state.json");
const marker = path.join(directory, ".save");

const state = fs.existsSync(stateFile) ? JSON.parse(fs.readFileSync(stateFile, "utf8")) : { step: 0 };
console.log(`starting at step ${state.step}`);
const weights = Buffer.alloc(1 << 20);
for (let n = 0; n < Number(steps); n++) {
  state.step += 1;
  weights.fill(state.step % 256);
  fs.writeFileSync(path.join(directory, "weights.bin"), weights);
  fs.writeFileSync(stateFile, JSON.stringify(state));
  const now = new Date();
  fs.utimesSync(marker, now, now); // one version
  console.log(`saved step ${state.step} as version ${JSON.parse(fs.readFileSync(marker, "utf8")).version}`);
}
const fd = fs.openSync(marker, "r");
fs.fsyncSync(fd); // all are in the store
fs.closeSync(fd);
console.log("durable");
