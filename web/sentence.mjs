// @ts-check
/** The sentence on a node: what was learned, or where each concept acted. Pure: it is given its element. */

export const REPORT_EVENT = "concept_loom.report";

/** Nodes that say something of their own. */
export const LINE_NODES = new Set([
    "ConceptLoom_ConceptDataset",
    "ConceptLoom_LearnConcept",
    "ConceptLoom_LoadConcept",
    "ConceptLoom_SaveConcept",
    "ConceptLoom_ComposeConcepts",
]);

/** @typedef {{ text: string, warns: boolean }} Line */

/**
 * One line per concept; those that did not act warn.
 * @param {{ sentence: string, cause: string }[]} reports
 * @returns {Line[]}
 */
export function linesOf(reports) {
    return reports.map(({ sentence, cause }) => ({ text: sentence, warns: cause !== "" }));
}

/**
 * The text of a node's own output, empty where it has none.
 * @param {{ text?: string[] } | undefined} output
 * @returns {string}
 */
export function lineOf(output) {
    return (output?.text ?? []).join("\n");
}

/**
 * Shows `lines` in `element`.
 * @param {HTMLElement} element
 * @param {Line[]} lines
 */
export function told(element, lines) {
    Object.assign(element.style, { whiteSpace: "pre-wrap", fontSize: "12px", overflow: "auto", userSelect: "text" });
    const shown = lines.map(({ text, warns }) => {
        const line = element.ownerDocument.createElement("div");
        line.textContent = warns ? `\u26a0 ${text}` : text;
        line.style.color = warns ? "var(--warning-text, #f0b040)" : "var(--input-text, inherit)";
        return line;
    });
    element.replaceChildren(...shown);
}
