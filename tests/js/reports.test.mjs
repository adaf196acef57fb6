import assert from "node:assert/strict";
import { test } from "node:test";

import { Reports } from "../../web/reports.mjs";
import { TOLD } from "../../web/sentence.mjs";

const ACTED = { sentence: "<mug> acted at 7 of 7 sites.", warns: false };
const NOT = { sentence: "<mug> did not act: it stands in no prompt.", warns: true };
const event = (prompt_id, sampler, ...reports) => ({ node: "5", prompt_id, sampler, reports });

function compose(kept) {
    const node = { properties: kept ? { [TOLD]: kept } : {}, told: [] };
    node.conceptLoomSentence = { tell: (lines) => (node.told = lines.map(({ text }) => text)) };
    return node;
}
const on = (node) => (id) => (id === "5" ? node : undefined);

function run(reports, node, prompt, ...told) {
    for (const [sampler, report] of told) reports.hear("here", event(prompt, sampler, report));
    reports.end();
    return reports.keep("here", on(node));
}

test("a run in which every sampler tells what it told before changes nothing in the workflow", () => {
    const [reports, node] = [new Reports(), compose()];
    assert.ok(run(reports, node, "a", ["14", NOT], ["20", ACTED]));
    const kept = structuredClone(node.properties);
    assert.ok(!run(reports, node, "b", ["14", NOT], ["20", ACTED]));
    assert.deepEqual(node.properties, kept);
    assert.ok(!JSON.stringify(kept).includes("prompt_id") && !("prompt" in kept[TOLD]));
    assert.ok(run(reports, node, "c", ["14", ACTED], ["20", ACTED]));
});

test("nothing is kept before the last sampler of the prompt has told, and all of it is shown meanwhile", () => {
    const [reports, node] = [new Reports(), compose()];
    reports.hear("here", event("a", "14", NOT));
    assert.ok(!reports.keep("here", on(node)));
    reports.hear("here", event("a", "20", ACTED));
    reports.show("here", on(node));
    assert.deepEqual(node.told, [`(14) ${NOT.sentence}`, `(20) ${ACTED.sentence}`]);
    assert.deepEqual(node.properties, {});
});

test("what was kept is the workflow's: an undo may take it back", () => {
    const [reports, node] = [new Reports(), compose()];
    run(reports, node, "a", ["14", NOT]);
    const before = compose();
    reports.show("here", on(before));
    assert.ok(!reports.keep("here", on(before)));
    assert.deepEqual([before.told, before.properties], [[], {}]);
});

test("reports of another workflow wait until it is open, and those of a node that is gone are dropped", () => {
    const [reports, node] = [new Reports(), compose()];
    reports.hear("elsewhere", event("a", "14", NOT));
    reports.end();
    reports.show("here", on(node));
    assert.ok(!reports.keep("here", on(node)));
    assert.deepEqual(node.told, []);
    reports.show("elsewhere", on(node));
    assert.deepEqual(node.told, [NOT.sentence]);
    assert.ok(reports.keep("elsewhere", on(node)));
    reports.hear("here", event("b", "14", NOT));
    reports.end();
    assert.ok(!reports.keep("here", () => undefined));
});
