import assert from "node:assert/strict";
import { test } from "node:test";

import { heard, lineOf, lines, linesOf, mendSwitches, nodeAt, told, underway } from "../../web/sentence.mjs";

const document = { createElement: () => ({ style: {}, textContent: "" }) };
const element = () => ({ style: {}, ownerDocument: document, shown: [], replaceChildren(...lines) { this.shown = lines; } });

const ACTED = { sentence: "<mug> acted at 7 of 7 sites.", warns: false };
const NOT = { sentence: "<mug> did not act: it stands in no prompt.", warns: true };
const event = (prompt_id, sampler, ...reports) => ({ prompt_id, sampler, reports });

test("a concept that acted is told plainly, one that did not warns", () => {
    assert.deepEqual(linesOf([ACTED, NOT]).map((line) => line.warns), [false, true]);
});

test("a second sampler of the same prompt does not hide what the first one told", () => {
    const both = heard(heard(undefined, event("a", "14", NOT)), event("a", "20", ACTED));
    assert.deepEqual(lines(both).map((line) => line.text), [`(14) ${NOT.sentence}`, `(20) ${ACTED.sentence}`]);
});

test("samplers that tell the same are one line", () => {
    const both = heard(heard(undefined, event("a", "14", ACTED)), event("a", "20", ACTED));
    assert.deepEqual(lines(both), [{ text: ACTED.sentence, warns: false }]);
});

test("another prompt starts anew, and nothing told is no line", () => {
    const next = heard(heard(undefined, event("a", "14", NOT)), event("b", "14", ACTED));
    assert.deepEqual(lines(JSON.parse(JSON.stringify(next))), [{ text: ACTED.sentence, warns: false }]);
    assert.deepEqual(lines(undefined), []);
});

test("a node is found in the graph and inside subgraphs", () => {
    const inner = { id: 3 };
    const graph = (nodes) => ({ getNodeById: (id) => nodes[id] });
    const root = graph({ 10: { id: 10 }, 12: { subgraph: graph({ 3: inner }) } });
    assert.equal(nodeAt(root, "10").id, 10);
    assert.equal(nodeAt(root, "12:3"), inner);
    assert.equal(nodeAt(root, "99:3"), undefined);
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

test("learning on its way is a line, and none when it is over", () => {
    const shown = element();
    told(shown, underway({ text: "12 of 400 steps, about 3 minutes left on this machine." }));
    assert.deepEqual(shown.shown.map((line) => line.textContent), ["12 of 400 steps, about 3 minutes left on this machine."]);
    told(shown, underway({ text: "" }));
    assert.deepEqual(shown.shown, []);
});

test("a switch that was handed an old sentence has its default again, the others stay", () => {
    const widgets = [
        { type: "toggle", name: "soft_masks", value: "an old sentence" },
        { type: "toggle", name: "sparing", value: "an old sentence" },
        { type: "toggle", name: "attractor", value: true },
        { type: "text", name: "note", value: "an old sentence" },
    ];
    mendSwitches(widgets, (name) => ({ sparing: true })[name]);
    assert.deepEqual(widgets.map((one) => one.value), [false, true, true, "an old sentence"]);
});
