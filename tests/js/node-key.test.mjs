import assert from "node:assert/strict";
import { test } from "node:test";

import { keyOf, takePlace } from "../../web/node-key.mjs";

function graph(id, ...nodes) {
    const made = { id, nodes, subgraphs: new Map(), getNodeById: (one) => made.nodes.find((node) => node.id === one) };
    for (const node of nodes) node.graph = made;
    return made;
}

test("a node has the same key when it is made anew, and none once it is not in the open workflow", () => {
    const [old, inner] = [{ id: 2 }, { id: 2 }];
    const root = graph("workflow", old);
    root.subgraphs.set("inside", graph("inside", inner));
    const keys = [keyOf(root, old), keyOf(root, inner)];
    assert.equal(new Set(keys).size, 2);
    const anew = { id: 2, graph: root };
    root.nodes = [anew];
    root.subgraphs.clear();
    assert.deepEqual([keyOf(root, anew), keyOf(root, old), keyOf(root, inner)], [keys[0], "", ""]);
    assert.equal(keyOf(root, { id: -1 }), "");
});

test("an element stands where that of its node before still stands", () => {
    const element = (isConnected) => ({ isConnected, replaceWith(other) { this.replaced = other; } });
    const [first, second, third] = [element(true), element(false), element(true)];
    for (const one of [first, first, second, third]) takePlace("workflow:graph:2", "pictures", one);
    assert.deepEqual([first.replaced, second.replaced], [second, undefined]);
    const [copy, another] = [element(true), element(true)];
    for (const one of [copy, another]) takePlace("", "pictures", one);
    takePlace("workflow:graph:2", "line", another);
    assert.deepEqual([copy.replaced, third.replaced], [undefined, undefined]);
});
