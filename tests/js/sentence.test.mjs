import assert from "node:assert/strict";
import { test } from "node:test";

import {
    Sentence, heard, lineOf, lines, linesOf, mendSwitches, nodeAt, nodeLocated, told,
} from "../../web/sentence.mjs";

const made = (kind) => ({ kind, style: {}, textContent: "", setAttribute() {}, append() {} });
const document = { createElement: made, createElementNS: (space, kind) => made(kind) };
const element = () => ({
    style: {}, ownerDocument: document, shown: [],
    replaceChildren(...lines) { this.shown = lines; },
    append(...more) { this.shown.push(...more); },
});
const texts = (sentence) => sentence.element.shown.filter(({ kind }) => kind === "div").map((line) => line.textContent);

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

test("a node of the page's outputs is found in the graph and in a subgraph that stands in no path", () => {
    const inner = { id: 3 };
    const subgraphs = new Map([["uuid", { getNodeById: (id) => ({ 3: inner })[id] }]]);
    const root = { subgraphs, getNodeById: (id) => ({ 3: "outer" })[id] };
    assert.equal(nodeLocated(root, "3"), "outer");
    assert.equal(nodeLocated(root, "uuid:3"), inner);
    assert.equal(nodeLocated(root, "gone:3"), undefined);
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

test("a warning is written in the colour of all text, and marked by its sign and its edge", () => {
    const node = element();
    told(node, linesOf([ACTED, NOT]));
    const [plain, warning] = node.shown.map((line) => line.style);
    assert.equal(warning.color, plain.color);
    assert.match(warning.borderLeft, /^3px solid var\(--warning-background, /);
    assert.equal(plain.borderLeft, undefined);
});

test("what a node says itself and what samplers told of it stand together, whichever comes last", () => {
    const sentence = new Sentence(element());
    sentence.tell(linesOf([NOT]));
    sentence.say("It was learned on another checkpoint.");
    const both = ["It was learned on another checkpoint.", `\u26a0 ${NOT.sentence}`];
    assert.deepEqual(texts(sentence), both);
    sentence.tell(linesOf([NOT]));
    assert.deepEqual(texts(sentence), both);
    sentence.say("");
    assert.deepEqual(texts(sentence), both.slice(1));
});

test("a warning of the node's own is gone once it says something else", () => {
    const sentence = new Sentence(element());
    sentence.warn("mug.safetensors is not in models/concepts.");
    assert.deepEqual(texts(sentence), ["\u26a0 mug.safetensors is not in models/concepts."]);
    sentence.say("<mug>, learned on SD 1.5.");
    assert.deepEqual(texts(sentence), ["<mug>, learned on SD 1.5."]);
});

test("learning on its way is a line with its curve, and neither when it is over", () => {
    const sentence = new Sentence(element());
    const curve = { steps: 400, label: "Training loss", training: [[1, 1], [12, 0.5]], held_out: [], best: null };
    sentence.say("12 of 400 steps, about 3 minutes left on this machine.", curve);
    assert.deepEqual(sentence.element.shown.map(({ kind }) => kind), ["div", "svg"]);
    sentence.say("", null);
    assert.deepEqual(sentence.element.shown, []);
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
