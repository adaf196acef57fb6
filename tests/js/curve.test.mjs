import assert from "node:assert/strict";
import { test } from "node:test";

import { drawn, pathOf } from "../../web/curve.mjs";

const document = {
    createElementNS: (space, kind) => ({
        kind, attributes: {}, children: [],
        setAttribute(name, value) { this.attributes[name] = value; },
        append(...parts) { this.children.push(...parts); },
    }),
};
const CURVE = { steps: 10, label: "told", training: [[5, 2], [10, 1]], held_out: [[0, 1], [10, 0.5]], best: 10 };

test("the highest loss is at the top, the last step at the right edge", () => {
    assert.equal(pathOf([[0, 2], [5, 1], [10, 1.5]], 10), "M0 2L50 30L100 16");
});

test("one point or a flat line divides by nothing", () => {
    assert.equal(pathOf([[3, 1]], 10), "");
    assert.equal(pathOf([[0, 1], [10, 1]], 10), "M0 2L100 2");
});

test("training, held-out and the best are drawn, and named for those who do not see them", () => {
    const picture = drawn(document, CURVE);
    const [title, ...paths] = picture.children;
    assert.equal(title.textContent, "told");
    assert.equal(picture.attributes["aria-label"], "told");
    assert.deepEqual(paths.map((path) => path.attributes.d), ["M50 2L100 30", "M0 2L100 30", "M100 0V32"]);
});

test("without held-out pictures there is one line", () => {
    assert.equal(drawn(document, { ...CURVE, held_out: [], best: null }).children.length, 2);
});
