// @ts-check
/** The pictures on a Concept Dataset node: thumbnails that can be removed, a button, a place to drop on. */
import { Copies } from "./picture-copies.mjs";
import { entriesOf, placeOf, partitioned, valueOf } from "./picture-list.mjs";

/** @typedef {import("./picture-list.mjs").Place} Place */
/** @typedef {import("./picture-words.mjs").Words} Words */
/**
 * What the page gives: how to upload, where a thumbnail is, what to do when the list changed, and which node this is.
 * @typedef {object} Host
 * @property {(file: File) => Promise<string>} upload
 * @property {(place: Place, converted: boolean) => string} address of the file, or of what the server makes of it
 * @property {() => void} changed
 * @property {() => string} key of the node in its workflow; empty where that is not open
 * @property {Words} words
 */

const STYLES = {
    root: "display:flex; flex-direction:column; gap:4px; min-height:0; overflow:hidden; box-sizing:border-box;"
        + " border:1px dashed var(--border-color, #666); border-radius:6px; padding:4px; font-size:12px;"
        + " color:var(--input-text, #ddd);",
    list: "display:grid; grid-template-columns:repeat(auto-fill, minmax(56px, 1fr)); grid-auto-rows:56px; gap:4px; margin:0;"
        + " padding:0; list-style:none; overflow-y:auto; flex:1; min-height:0; align-content:start;",
    item: "position:relative; overflow:hidden; border-radius:4px; font-size:9px;"
        + " background:var(--comfy-input-bg, #222); word-break:break-all;",
    image: "width:100%; height:100%; object-fit:cover; display:block;",
    remove: "position:absolute; top:1px; right:1px; width:18px; height:18px; padding:0; border:0; border-radius:9px;"
        + " background:rgba(0,0,0,.65); color:#fff; cursor:pointer; line-height:16px; font-size:12px;",
    bar: "display:flex; gap:6px; align-items:center; flex-wrap:wrap;",
    button: "padding:2px 8px; border:1px solid var(--border-color, #666); border-radius:4px; cursor:pointer;"
        + " background:var(--comfy-input-bg, #222); color:inherit; font:inherit;",
    said: "white-space:pre-wrap; max-height:4.5em; overflow:auto;",
};

export class Gallery {
    /**
     * @param {Document} document
     * @param {Host} host
     */
    constructor(document, host) {
        this.document = document;
        this.host = host;
        /** @type {string[]} */
        this.entries = [];
        this.copies = new Copies(this);
        this.list = this.#make("ul", STYLES.list);
        this.list.setAttribute("aria-label", host.words.list);
        this.status = this.#make("span", "flex:1");
        this.said = this.#make("div", STYLES.said);
        this.said.setAttribute("role", "status");
        this.input = this.#fileInput();
        this.chooseButton = this.#button(host.words.choose, () => this.input.click());
        this.clearButton = this.#button(host.words.clear, () => this.#set([]));
        const bar = this.#make("div", STYLES.bar);
        bar.append(this.chooseButton, this.status, this.clearButton, this.input);
        this.element = this.#make("div", STYLES.root);
        this.element.append(bar, this.list, this.said);
        this.element.addEventListener("keydown", (event) => this.#pressed(event));
        this.#draw();
    }

    get value() {
        return valueOf(this.entries);
    }

    set value(value) {
        this.entries = entriesOf(value);
        this.#draw();
    }

    /**
     * Copies those that are pictures to the server, and says which are not.
     * @param {Iterable<File>} files
     * @returns {Promise<void>}
     */
    add(files) {
        const { pictures, others } = partitioned(files);
        const said = others.length ? [this.host.words.other(others.map((file) => file.name).join(", "))] : [];
        return this.copies.send(pictures, said);
    }

    /** @param {string[]} arrived to the list as it is by now: some may have been removed meanwhile */
    take(arrived) {
        this.#set([...this.entries, ...arrived]);
    }

    /** @param {string[]} entries */
    #set(entries) {
        this.entries = entriesOf(entries.join("\n"));
        this.#draw();
        this.host.changed();
    }

    /** @param {string} entry */
    #remove(entry) {
        const place = this.entries.indexOf(entry);
        this.#set(this.entries.filter((other) => other !== entry));
        const next = this.list.children[Math.min(place, this.entries.length - 1)];
        (next?.querySelector("button") ?? this.chooseButton).focus();
    }

    /** Keys that the canvas would take for its own: Delete removes the node there.
     * @param {KeyboardEvent} event
     */
    #pressed(event) {
        const ours = ["Delete", "Backspace", " ", "Enter"].includes(event.key) && !event.ctrlKey && !event.metaKey;
        if (!ours) return;
        event.stopPropagation();
        const entry = /** @type {HTMLElement} */ (event.target).dataset.entry;
        if (entry !== undefined && (event.key === "Delete" || event.key === "Backspace")) this.#remove(entry);
    }

    #draw() {
        const { words } = this.host;
        const known = new Map([...this.list.children].map((item) => [item.getAttribute("data-entry"), item]));
        this.list.replaceChildren(...this.entries.map((entry) => known.get(entry) ?? this.#item(entry)));
        this.status.textContent = this.entries.length ? words.count(this.entries.length) : words.empty;
        this.clearButton.style.display = this.entries.length ? "" : "none";
    }

    /** @param {string} entry */
    #item(entry) {
        const place = placeOf(entry);
        const item = this.#make("li", STYLES.item);
        item.setAttribute("data-entry", entry);
        item.title = place.filename;
        const image = /** @type {HTMLImageElement} */ (this.#make("img", STYLES.image));
        image.alt = place.filename;
        image.loading = "lazy";
        image.decoding = "async";
        image.draggable = false;
        image.src = this.host.address(place, false);
        image.addEventListener("error", () => this.#unshown(image, place), { once: true });
        const remove = this.#button("\u00d7", () => this.#remove(entry));
        remove.style.cssText = STYLES.remove;
        remove.setAttribute("aria-label", this.host.words.remove(place.filename));
        remove.dataset.entry = entry;
        item.append(image, remove);
        return item;
    }

    /** Browsers do not show TIFF; the server can make something of it. Of the rest the name is shown.
     * @param {HTMLImageElement} image
     * @param {Place} place
     */
    #unshown(image, place) {
        const name = this.#make("span", "");
        name.textContent = place.filename;
        image.addEventListener("error", () => image.replaceWith(name), { once: true });
        image.src = this.host.address(place, true);
    }

    #fileInput() {
        const input = /** @type {HTMLInputElement} */ (this.#make("input", "display:none"));
        input.type = "file";
        input.multiple = true;
        input.accept = "image/*,.heic,.heif,.psd,.tga,.jp2";
        input.addEventListener("change", () => {
            void this.add([...(input.files ?? [])]);
            input.value = ""; // so that the same file can be chosen again after it was removed
        });
        return input;
    }

    /**
     * @param {string} text
     * @param {() => void} pressed
     */
    #button(text, pressed) {
        const button = /** @type {HTMLButtonElement} */ (this.#make("button", STYLES.button));
        button.type = "button";
        button.textContent = text;
        button.addEventListener("click", pressed);
        return button;
    }

    /**
     * @param {string} tag
     * @param {string} style
     */
    #make(tag, style) {
        const element = this.document.createElement(tag);
        element.style.cssText = style;
        return element;
    }
}
