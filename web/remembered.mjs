// @ts-check
/** Load Concept's note of the file it was given: name, hash, word, base and size, kept in the workflow. Pure. */

export const REMEMBERING_NODE = "ConceptLoom_LoadConcept";

/** @typedef {{ value: any, callback?: Function, hidden?: boolean, options?: any, serializeValue?: Function }} Widget */
/** @typedef {(file: string) => Promise<object | null>} Ask what the server knows of a file, null where it has none */

/**
 * Whether the note is of the chosen file; either path separator will do.
 * @param {string} note
 * @param {string} file
 * @returns {boolean}
 */
export function isOf(note, file) {
    try {
        return slashed(JSON.parse(note).file) === slashed(file);
    } catch {
        return false;
    }
}

/**
 * Keeps the note on `noted` in step with the choice on `chosen`: when it is made, and before a prompt is queued. A note
 * that came with a workflow stays, for the file may be missing here.
 * @param {Widget} chosen
 * @param {Widget} noted
 * @param {Ask} ask
 */
export function keepNote(chosen, noted, ask) {
    async function update() {
        const file = chosen.value;
        if (!isOf(noted.value, file)) {
            const known = file ? await ask(file) : null;
            if (chosen.value === file) noted.value = known ? JSON.stringify(known) : "";
        }
        return noted.value;
    }
    const picked = chosen.callback;
    chosen.callback = function () {
        const result = picked?.apply(this, arguments);
        update();
        return result;
    };
    noted.serializeValue = update;
    noted.hidden = true;
    noted.options = { ...noted.options, hidden: true };
}

/** @param {string} file */
function slashed(file) {
    return file.replaceAll("\\", "/");
}
