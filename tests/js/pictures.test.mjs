import assert from "node:assert/strict";
import { test } from "node:test";

import { Copies } from "../../web/picture-copies.mjs";
import { Gallery } from "../../web/picture-gallery.mjs";
import { entriesOf, entryOf, partitioned, placeOf, safeName, valueOf } from "../../web/picture-list.mjs";
import { filesOf, uploaded } from "../../web/picture-upload.mjs";
import { wordsOf } from "../../web/picture-words.mjs";

class Element {
    constructor(tag) {
        Object.assign(this, { tag, style: {}, dataset: {}, children: [], attributes: {}, heard: {}, textContent: "" });
    }
    setAttribute(name, value) { this.attributes[name] = value; }
    getAttribute(name) { return this.attributes[name]; }
    append(...children) { this.children.push(...children); }
    replaceChildren(...children) { this.children = children; }
    addEventListener(type, hear) { this.heard[type] = hear; }
    querySelector(tag) { return this.children.find((child) => child.tag === tag); }
    focus() { Element.focused = this; }
    click() { this.heard.click(); }
}

const document = { createElement: (tag) => new Element(tag) };
const picture = (name) => new File(["x"], name, { type: "image/png" });

function gallery(upload = async (file) => `concept_loom/${file.name}`, key = () => "workflow:graph:1") {
    const seen = [];
    const host = {
        upload, address: ({ filename }) => `/view/${filename}`, changed: () => seen.push(1), key, words: wordsOf("en"),
    };
    return Object.assign(new Gallery(document, host), { seen });
}

/** Uploads that end one by one, by hand. */
function slow() {
    const waiting = [];
    const upload = (file) => new Promise((found) => waiting.push(() => found(`concept_loom/${file.name}`)));
    const next = async () => {
        waiting.shift()();
        await new Promise((resolve) => { setTimeout(resolve); });
    };
    return { upload, next };
}

for (const [value, entries] of [
    ["a.png\nset/b.png", ["a.png", "set/b.png"]],
    ["set\\b.png\r\n\r\n  \nset/b.png", ["set/b.png"]],
    ["猫 の 写真.jpg", ["猫 の 写真.jpg"]],
    [undefined, []],
]) {
    test(`the list ${JSON.stringify(value)} is read with either separator and without doubles`, () => {
        assert.deepEqual(entriesOf(value), entries);
        assert.equal(valueOf(entries), entries.join("\n"));
    });
}

for (const [entry, place] of [
    ["a.png", { filename: "a.png", subfolder: "", type: "input" }],
    ["x/y/a b.png", { filename: "a b.png", subfolder: "x/y", type: "input" }],
    ["drawn_1.png [output]", { filename: "drawn_1.png", subfolder: "", type: "output" }],
]) {
    test(`${entry} is found by /view`, () => assert.deepEqual(placeOf(entry), place));
}

test("a name that would break the list or /view is changed", () => {
    assert.equal(safeName("a\nb\\c..d.png"), "a b c.d.png");
    assert.equal(safeName("猫 (1).heic"), "猫 (1).heic");
});

test("files that browsers know no type of are pictures by their name", () => {
    const files = [picture("a.png"), new File([""], "IMG_1.HEIC"), new File([""], "notes.txt", { type: "text/plain" })];
    const { pictures, others } = partitioned(files);
    assert.deepEqual([pictures.length, others.length], [2, 1]);
});

test("what is removed while another file is on its way stays removed", async () => {
    let arrive;
    const shown = gallery(() => new Promise((resolve) => { arrive = resolve; }));
    shown.value = "set/old.png";
    const arrived = shown.add([picture("new.png")]);
    await new Promise((resolve) => { setTimeout(resolve); });
    shown.value = "";
    arrive("concept_loom/new.png");
    await arrived;
    assert.equal(shown.value, "concept_loom/new.png");
});

test("what arrives while another workflow is open, or later, is in the gallery that its node has by then", async () => {
    const { upload, next } = slow();
    let open = true;
    const before = gallery(upload, () => (open ? "workflow:graph:2" : ""));
    const arrived = before.add([picture("a.png"), picture("b.png"), picture("c.png")]);
    await new Promise((resolve) => { setTimeout(resolve); });
    await next();
    open = false;
    const saved = before.value;
    await next();
    assert.equal(before.value, saved);
    const stranger = gallery(upload, () => "workflow:graph:3");
    const after = gallery(upload, () => "workflow:graph:2");
    after.value = saved;
    for (const one of [stranger, after]) Copies.handTo(one);
    assert.equal(after.value, "concept_loom/a.png\nconcept_loom/b.png");
    assert.equal(after.said.textContent, "Copying 3 of 3 ...");
    assert.equal(after.copies.arrived, arrived);
    await next();
    await arrived;
    assert.equal(after.value, "concept_loom/a.png\nconcept_loom/b.png\nconcept_loom/c.png");
    assert.equal(stranger.value, "");
});

test("what has all arrived before its workflow is open again waits there once, and an undo may take it back", async () => {
    let open = true;
    const before = gallery(undefined, () => (open ? "workflow:graph:4" : ""));
    const arrived = before.add([picture("a.png")]);
    open = false;
    await arrived;
    const after = gallery(undefined, () => "workflow:graph:4");
    Copies.handTo(after);
    assert.equal(after.value, "concept_loom/a.png");
    const undone = gallery(undefined, () => "workflow:graph:4");
    Copies.handTo(undone);
    assert.equal(undone.value, "");
});

test("a file goes through ComfyUI's route, and the name that the server chose is kept", async () => {
    let sent;
    const fetchApi = async (route, init) => {
        sent = { route, name: init.body.get("image").name, folder: init.body.get("subfolder") };
        return new Response(JSON.stringify({ name: "a (1).png", subfolder: "concept_loom", type: "input" }));
    };
    assert.equal(await uploaded(picture("a.png"), fetchApi), "concept_loom/a (1).png");
    assert.deepEqual(sent, { route: "/upload/image", name: "a.png", folder: "concept_loom" });
    await assert.rejects(uploaded(picture("a.png"), async () => new Response("", { status: 413 })), /413/);
    assert.equal(entryOf({ name: "a.png", subfolder: "" }), "a.png");
});

test("a dropped folder gives its files, also those in folders inside it", async () => {
    const file = (name) => ({ isFile: true, name, file: (found) => found(picture(name)) });
    const folder = (name, inside) => ({
        isDirectory: true,
        name,
        createReader: () => ({ readEntries: (found) => found(inside.splice(0, 2)) }),
    });
    const dropped = folder("mug", [file("1.png"), file("2.png"), folder("more", [file("3.png"), file(".DS_Store")])]);
    const transfer = { items: [{ webkitGetAsEntry: () => dropped }], files: [] };
    assert.deepEqual((await filesOf(transfer)).map((one) => one.name), ["1.png", "2.png", "3.png"]);
});

test("pictures that arrive are added in order and only once, and a refused one is named", async () => {
    const sent = gallery(async (file) => {
        if (file.name === "big.png") throw new Error("413");
        return `concept_loom/${file.name}`;
    });
    sent.add([picture("b.png"), picture("big.png"), new File([""], "notes.txt")]);
    await sent.add([picture("a.png"), picture("b.png")]);
    assert.equal(sent.value, "concept_loom/b.png\nconcept_loom/a.png");
    assert.equal(sent.list.children.length, 2);
    await sent.add([picture("big.png"), new File([""], "notes.txt")]);
    assert.equal(sent.said.textContent, "No picture, left out: notes.txt.\nbig.png was not copied: 413.");
});

test("Delete takes a picture out, keeps the keyboard in the list, and never reaches the canvas", () => {
    const shown = gallery();
    shown.value = "a.png\nb.png\nc.png";
    const button = (place) => shown.list.children[place].querySelector("button");
    let stopped = 0;
    const press = (place) =>
        shown.element.heard.keydown({ key: "Delete", target: button(place), stopPropagation: () => (stopped += 1) });
    press(1);
    assert.equal(shown.value, "a.png\nc.png");
    assert.equal(Element.focused, button(1));
    press(1);
    assert.equal(Element.focused, button(0));
    button(0).click();
    assert.equal(Element.focused, shown.chooseButton);
    assert.deepEqual([shown.value, stopped, shown.seen.length], ["", 2, 3]);
});

test("what the browser cannot show is asked of the server, and then named", () => {
    const shown = gallery();
    shown.value = "a.tif";
    const [image] = shown.list.children[0].children;
    image.heard.error();
    let instead;
    image.replaceWith = (element) => (instead = element);
    image.heard.error();
    assert.equal(instead.textContent, "a.tif");
});

test("names are shown as text", () => {
    const shown = gallery();
    shown.value = "<img src=x onerror=alert(1)>.png";
    const [image, remove] = shown.list.children[0].children;
    assert.equal(image.alt, "<img src=x onerror=alert(1)>.png");
    assert.equal(remove.attributes["aria-label"], "Remove <img src=x onerror=alert(1)>.png");
});
