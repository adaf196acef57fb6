// @ts-check
/** The sentence on a node: what was learned, or where each concept acted. Pure: it is given its element. */
import { drawn } from "./curve.mjs";

export const REPORT_EVENT = "concept_loom.report";

/** How far learning is, and how long it will still take here; an empty text when that is over. */
export const PROGRESS_EVENT = "concept_loom.progress";

/** The node's property that keeps what was told last: saved with the workflow, never part of a prompt. */
export const TOLD = "concept_loom_told";

const WARNING = "3px solid var(--warning-background, #b45309)";

/** Nodes that say something of their own. */
export const LINE_NODES = new Set([
    "ConceptLoom_ConceptDataset",
    "ConceptLoom_CaptionPictures",
    "ConceptLoom_LearnConcept",
    "ConceptLoom_LoadConcept",
    "ConceptLoom_SaveConcept",
    "ConceptLoom_ImportConcept",
    "ConceptLoom_ExportConcept",
    "ConceptLoom_ComposeConcepts",
    "ConceptLoom_EvaluateConcept",
    "ConceptLoom_StrengthSheet",
    "ConceptLoom_TrainNestedEncoder",
    "ConceptLoom_NestedAttentionInjector",
    "ConceptLoom_TrainTowers",
    "ConceptLoom_TowerEncoder",
    "ConceptLoom_CheckComfyUI",
]);

/** @typedef {{ text: string, warns: boolean }} Line */
/** @typedef {{ prompt?: string, samplers: Record<string, Line[]> }} Told what each sampler of one prompt has told */

/**
 * One line per concept; those that did not act warn.
 * @param {{ sentence: string, warns: boolean }[]} reports
 * @returns {Line[]}
 */
export function linesOf(reports) {
    return reports.map(({ sentence, warns }) => ({ text: sentence, warns }));
}

/**
 * What was told before, and one event more; another prompt starts anew, another sampler of the same one is added.
 * @param {Told | undefined} before
 * @param {{ prompt_id: string, sampler: string, reports: { sentence: string, warns: boolean }[] }} event
 * @returns {Told}
 */
export function heard(before, { prompt_id, sampler, reports }) {
    const samplers = before?.prompt === prompt_id ? before.samplers : {};
    return { prompt: prompt_id, samplers: { ...samplers, [sampler]: linesOf(reports) } };
}

/**
 * The lines of all samplers, those that say the same once; what differs between samplers names its own.
 * @param {Told | undefined} told
 * @returns {Line[]}
 */
export function lines(told) {
    const samplers = Object.entries(told?.samplers ?? {});
    /** @param {string} text */
    const everywhere = (text) => samplers.every(([, own]) => own.some((line) => line.text === text));
    const shown = samplers.flatMap(([sampler, own]) =>
        own.map((line) => (everywhere(line.text) ? line : { ...line, text: `(${sampler}) ${line.text}` })),
    );
    return shown.filter(({ text }, number) => shown.findIndex((line) => line.text === text) === number);
}

/**
 * The node that a path of ids names: "12:3" is node 3 inside the subgraph node 12.
 * @param {any} graph
 * @param {string} path
 */
export function nodeAt(graph, path) {
    return String(path)
        .split(":")
        .reduce((found, id) => (found?.subgraph ?? found)?.getNodeById?.(id), graph);
}

/**
 * The node that the page names in its outputs: "7" in `graph`, "its subgraph:7" in a subgraph.
 * @param {any} graph
 * @param {string} locator
 */
export function nodeLocated(graph, locator) {
    const [id, subgraph] = locator.split(":").reverse();
    return (subgraph ? graph.subgraphs?.get(subgraph) : graph)?.getNodeById(id);
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
 * Puts the defaults back into switches that hold no yes or no. Workflows from before the first release saved the line
 * as a last value, and where a node has gained a switch since, the page hands it that.
 * @param {{ type: string, name: string, value: unknown }[]} widgets
 * @param {(name: string) => boolean | undefined} byDefault
 */
export function mendSwitches(widgets, byDefault) {
    for (const widget of widgets) {
        if (widget.type === "toggle" && typeof widget.value !== "boolean") widget.value = byDefault(widget.name) ?? false;
    }
}

/** What stands on a node: what it says itself, what samplers told of it, and its curve. */
export class Sentence {
    /** @type {Line[]} */
    #own = [];
    /** @type {Line[]} */
    #told = [];
    /** @type {import("./curve.mjs").Curve | null} */
    #curve = null;

    /** @param {HTMLElement} element */
    constructor(element) {
        this.element = element;
    }

    /**
     * @param {string} text its own, empty for none
     * @param {import("./curve.mjs").Curve | null} [curve]
     */
    say(text, curve = null) {
        this.#own = text ? [{ text, warns: false }] : [];
        this.#curve = curve;
        this.#draw();
    }

    /** @param {string} text what is wrong, until it says something else */
    warn(text) {
        this.#own = [{ text, warns: true }];
        this.#draw();
    }

    /** @param {Line[]} lines of what samplers told */
    tell(lines) {
        this.#told = lines;
        this.#draw();
    }

    #draw() {
        told(this.element, [...this.#own, ...this.#told]);
        if (this.#curve) this.element.append(drawn(this.element.ownerDocument, this.#curve));
    }
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
        line.style.color = "var(--input-text, inherit)"; // no theme has a readable one for warnings
        if (warns) Object.assign(line.style, { borderLeft: WARNING, paddingLeft: "5px" });
        return line;
    });
    element.replaceChildren(...shown);
}
