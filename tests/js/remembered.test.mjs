import assert from "node:assert/strict";
import { test } from "node:test";

import { REMEMBERING_NODE, callByNamesHere, isOf, keepNote } from "../../web/remembered.mjs";

const note = (file) => JSON.stringify({ file, hash: "abc" });

function widgets(file, kept = "") {
    const asked = [];
    const ask = async (name) => {
        asked.push(name);
        return name === "gone.safetensors" ? null : { file: name, hash: "abc" };
    };
    const chosen = { value: file };
    const noted = { value: kept };
    keepNote(chosen, noted, ask);
    return { chosen, noted, asked };
}

test("a note is of its file with either separator, and nothing else is a note", () => {
    assert.ok(isOf(note("set/mug.safetensors"), "set\\mug.safetensors"));
    for (const other of ["", "null", "{}", note("cup.safetensors")]) assert.ok(!isOf(other, "mug.safetensors"));
});

test("the note is written before a prompt is queued, and asked for once", async () => {
    const { noted, asked } = widgets("mug.safetensors");
    assert.equal(await noted.serializeValue(), note("mug.safetensors"));
    await noted.serializeValue();
    assert.deepEqual(asked, ["mug.safetensors"]);
});

test("choosing another file writes another note, and the widget's own callback still runs", async () => {
    const { chosen, noted } = widgets("mug.safetensors", note("mug.safetensors"));
    chosen.value = "cup.safetensors";
    chosen.callback("cup.safetensors");
    assert.equal(await noted.serializeValue(), note("cup.safetensors"));
});

test("a shared workflow's note stays where its file is missing", async () => {
    const { noted, asked } = widgets("gone.safetensors", note("gone.safetensors"));
    assert.equal(await noted.serializeValue(), note("gone.safetensors"));
    assert.deepEqual(asked, []);
});

test("a file that is missing and was never noted leaves no note of another", async () => {
    const { noted } = widgets("gone.safetensors", note("mug.safetensors"));
    assert.equal(await noted.serializeValue(), "");
});

const loading = (file, kept) => ({ type: REMEMBERING_NODE, widgets_values: [file, "cup", kept] });

test("a workflow gets the names that its files have here, also inside subgraphs, and keeps the rest of its notes", async () => {
    const kept = JSON.stringify({ file: "mug.safetensors", hash: "abc", word: "grail" });
    const [outer, inner, here, unnoted] = [
        loading("mug.safetensors", kept),
        loading("gone.safetensors", note("gone.safetensors")),
        loading("set\\mug.safetensors", note("set/mug.safetensors")),
        loading("mug.safetensors", ""),
    ];
    const nodes = [outer, here, unnoted, { type: "KSampler" }, { type: REMEMBERING_NODE }];
    const find = async (file) => ({
        "mug.safetensors": { file: "deep/moved.safetensors" },
        "set\\mug.safetensors": { file: "set/mug.safetensors" },
        "gone.safetensors": { error: "It is not here." },
    })[file];
    await callByNamesHere({ nodes, definitions: { subgraphs: [{ nodes: [inner] }] } }, find);
    assert.deepEqual(outer.widgets_values.slice(0, 2), ["deep/moved.safetensors", "cup"]);
    assert.deepEqual(JSON.parse(outer.widgets_values[2]), { ...JSON.parse(kept), file: "deep/moved.safetensors" });
    assert.deepEqual(inner, loading("gone.safetensors", note("gone.safetensors")));
    assert.deepEqual(here.widgets_values[0], "set\\mug.safetensors");
    assert.deepEqual(unnoted, loading("mug.safetensors", ""));
});
