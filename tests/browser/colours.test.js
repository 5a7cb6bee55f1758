import assert from "node:assert/strict";
import test from "node:test";
import { VISION, contrast, distance, hex, lab } from "./colours.mjs";

test("CIEDE2000 gives the distances of Sharma, Wu and Dalal", () => {
  for (const [a, b, far] of [
    [[50, 2.6772, -79.7751], [50, 0, -82.7485], 2.0425],
    [[50, 0, 0], [50, -1, 2], 2.3669],
    [[50, 2.5, 0], [50, 0, -2.5], 4.3065],
    [[50, 2.5, 0], [73, 25, -18], 27.1492],
    [[60.2574, -34.0099, 36.2677], [60.4626, -34.1751, 39.4387], 1.2644],
    [[2.0776, 0.0795, -1.135], [0.9033, -0.0636, -0.5514], 0.9082],
  ]) assert.ok(Math.abs(distance(a, b) - far) < 0.0001, `${distance(a, b)} for ${far}`);
});

test("contrast is that of WCAG", () => {
  assert.equal(contrast([0, 0, 0], [255, 255, 255]), 21);
  assert.ok(Math.abs(contrast(hex("#767676"), hex("#ffffff")) - 4.54) < 0.01);
});

test("the measured distances of the specification come out", () => {
  const apart = (a, b, vision) => distance(lab(hex(a), vision), lab(hex(b), vision));
  assert.ok(Math.abs(apart("#409671", "#860b32", VISION.normal) - 65.2) < 0.1);
  assert.ok(Math.abs(apart("#409671", "#860b32", VISION.deutan) - 21.8) < 0.3);
});
