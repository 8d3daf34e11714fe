// Serves npm's @vladmandic/face-api to predict.py: age, gender and expression of the whole image.
import { createRequire } from 'node:module';
import path from 'node:path';

const folder = process.argv[2];
const require = createRequire(path.join(folder, 'package.json'));
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');
const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');

const NAMES = {
  angry: 'angry', disgusted: 'disgust', fearful: 'fear', happy: 'happy',
  neutral: 'neutral', sad: 'sad', surprised: 'surprise',
};

wasm.setWasmPaths(path.join(folder, 'node_modules/@tensorflow/tfjs-backend-wasm/dist/'));
await tf.setBackend('wasm');
await tf.ready();
const models = path.join(folder, 'node_modules/@vladmandic/face-api/model');
await faceapi.nets.ageGenderNet.loadFromDisk(models);
await faceapi.nets.faceExpressionNet.loadFromDisk(models);

async function answer(pixels, height, width) {
  const image = tf.tensor3d(new Int32Array(pixels), [height, width, 3], 'int32');
  const { age, gender, genderProbability } = await faceapi.nets.ageGenderNet.predictAgeAndGender(image);
  const expressions = await faceapi.nets.faceExpressionNet.predictExpressions(image);
  image.dispose();
  const other = gender === 'male' ? 'female' : 'male';
  const emotion = {};
  for (const [theirs, ours] of Object.entries(NAMES)) emotion[ours] = expressions[theirs];
  return { age: Math.max(age, 0), gender: { [gender]: genderProbability, [other]: 1 - genderProbability }, emotion };
}

let buffer = Buffer.alloc(0);
for await (const chunk of process.stdin) {
  buffer = Buffer.concat([buffer, chunk]);
  while (buffer.length >= 8) {
    const height = buffer.readUInt32LE(0);
    const width = buffer.readUInt32LE(4);
    const end = 8 + 3 * height * width;
    if (buffer.length < end) break;
    process.stdout.write(JSON.stringify(await answer(buffer.subarray(8, end), height, width)) + '\n');
    buffer = buffer.subarray(end);
  }
}
