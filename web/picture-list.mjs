// @ts-check
/** The list of a dataset's pictures: "subfolder/name" entries below input/, one a line. Pure. */

export const SUBFOLDER = "concept_loom";
const PICTURE = /\.(jpe?g?|jfif|png|webp|bmp|gif|tiff?|tga|avif|psd|jp2|ppm|hei[cf]|cr[23]|nef|arw|dng|orf|rw2|raf)$/i;
const ELSEWHERE = / ?\[(input|output|temp)\]$/;

/** @typedef {{ filename: string, subfolder: string, type: string }} Place */

/**
 * Entries of a widget's value, with / whatever separator was saved, each once.
 * @param {unknown} value
 * @returns {string[]}
 */
export function entriesOf(value) {
    const lines = typeof value === "string" ? value.split(/\r?\n/) : [];
    return [...new Set(lines.map((line) => line.replaceAll("\\", "/")).filter((line) => line.trim()))];
}

/**
 * @param {string[]} entries
 * @returns {string}
 */
export function valueOf(entries) {
    return entriesOf(entries.join("\n")).join("\n");
}

/**
 * Where ComfyUI's /view finds an entry.
 * @param {string} entry
 * @returns {Place}
 */
export function placeOf(entry) {
    const type = ELSEWHERE.exec(entry)?.[1] ?? "input";
    const parts = entry.replace(ELSEWHERE, "").split("/");
    return { filename: parts[parts.length - 1], subfolder: parts.slice(0, -1).join("/"), type };
}

/**
 * The entry of what /upload/image answered.
 * @param {{ name: string, subfolder: string }} saved
 * @returns {string}
 */
export function entryOf({ name, subfolder }) {
    return valueOf([subfolder ? `${subfolder}/${name}` : name]);
}

/**
 * A name that can stand on a line of the list and behind /view, which refuses "..".
 * @param {string} name
 * @returns {string}
 */
export function safeName(name) {
    return name.replace(/[\r\n\\/]+/g, " ").replace(/\.{2,}/g, ".").trim();
}

/**
 * Files that are or are called pictures; what is inside them the server says.
 * @param {Iterable<File>} files
 * @returns {{ pictures: File[], others: File[] }}
 */
export function partitioned(files) {
    const all = [...files];
    const isPicture = (/** @type {File} */ file) => file.type.startsWith("image/") || PICTURE.test(file.name);
    return { pictures: all.filter(isPicture), others: all.filter((file) => !isPicture(file)) };
}
