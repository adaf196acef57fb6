// @ts-check
/** Brings files to the server through ComfyUI's own route, so that it works on a remote one. */
import { SUBFOLDER, entryOf, safeName } from "./picture-list.mjs";

/** @typedef {(route: string, init: RequestInit) => Promise<Response>} Fetch */

/**
 * The entry of `file` once it is in input/; an equal file of the same name is not stored twice.
 * @param {File} file
 * @param {Fetch} fetchApi
 * @returns {Promise<string>}
 */
export async function uploaded(file, fetchApi) {
    const body = new FormData();
    body.append("image", file, safeName(file.name));
    body.append("subfolder", SUBFOLDER);
    const answer = await fetchApi("/upload/image", { method: "POST", body });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`.trim());
    return entryOf(await answer.json());
}

/**
 * The files of a drop, also those inside dropped folders.
 * @param {DataTransfer} transfer
 * @returns {Promise<File[]>}
 */
export async function filesOf(transfer) {
    // Both must be read before the first await: the browser empties the transfer when the handler returns.
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
    const files = [...transfer.files];
    if (!entries.some((entry) => entry?.isDirectory)) return files;
    return (await Promise.all(entries.map((entry) => (entry ? filesIn(entry) : [])))).flat();
}

/**
 * @param {FileSystemEntry} entry
 * @returns {Promise<File[]>}
 */
async function filesIn(entry) {
    if (entry.name.startsWith(".")) return [];
    if (entry.isFile) {
        return [await new Promise((found, failed) => /** @type {FileSystemFileEntry} */ (entry).file(found, failed))];
    }
    const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
    /** @type {File[]} */
    const all = [];
    for (;;) {
        // readEntries gives at most 100 at a time, and none at the end
        const some = await new Promise((found, failed) => reader.readEntries(found, failed));
        if (!some.length) return all;
        for (const one of some) all.push(...(await filesIn(one)));
    }
}
