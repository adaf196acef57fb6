// @ts-check
/** Load Concept's note of the file it was given: name, hash, word, base and size, kept in the workflow. Pure. */

export const REMEMBERING_NODE = "ConceptLoom_LoadConcept";

/** @typedef {{ value: any, callback?: Function, hidden?: boolean, options?: any, serializeValue?: Function }} Widget */
/** @typedef {(file: string) => Promise<object | null>} Ask what the server knows of a file, null where it has none */
/** @typedef {(file: string, note: string) => Promise<{ file?: string, error?: string }>} Find its name here, or a sentence */

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

/**
 * Gives a workflow, before it is loaded, the names that its concept files have here, so that the page misses none that
 * is there under another name. The note keeps all else, for the workflow's prompts may use its word.
 * @param {{ nodes?: any[], definitions?: { subgraphs?: { nodes?: any[] }[] } }} workflow
 * @param {Find} find
 */
export async function callByNamesHere(workflow, find) {
    const graphs = [workflow, ...(workflow.definitions?.subgraphs ?? [])];
    for (const node of graphs.flatMap((graph) => graph.nodes ?? [])) {
        const [file, , note] = (node.type === REMEMBERING_NODE && node.widgets_values) || [];
        if (!isOf(note, file)) continue;
        const here = await find(file, note);
        if (!here.file || here.file === slashed(file)) continue;
        node.widgets_values[0] = here.file;
        node.widgets_values[2] = JSON.stringify({ ...JSON.parse(note), file: here.file });
    }
}

/** @param {string} file */
function slashed(file) {
    return file.replaceAll("\\", "/");
}
