import assert from "node:assert/strict";
import { test } from "node:test";

import { lineOf, linesOf, told } from "../../web/sentence.mjs";

const document = { createElement: () => ({ style: {}, textContent: "" }) };
const element = () => ({ style: {}, ownerDocument: document, shown: [], replaceChildren(...lines) { this.shown = lines; } });

test("a concept that acted is told plainly, one that did not warns", () => {
    const lines = linesOf([
        { sentence: "<mug> acted at 7 of 7 sites.", cause: "" },
        { sentence: "<cup> did not act: it stands in no prompt.", cause: "word" },
    ]);
    assert.deepEqual(lines.map((line) => line.warns), [false, true]);
});

test("a node without text says nothing", () => {
    assert.equal(lineOf(undefined), "");
    assert.equal(lineOf({}), "");
    assert.equal(lineOf({ text: ["one", "two"] }), "one\ntwo");
});

test("what is told replaces what was told before, as text and not as markup", () => {
    const node = element();
    told(node, [{ text: "<b>old</b>", warns: false }]);
    told(node, [{ text: "<mug> did not act", warns: true }]);
    assert.equal(node.shown.length, 1);
    assert.equal(node.shown[0].textContent, "\u26a0 <mug> did not act");
});
