// @ts-check
/** Registers Concept Loom with ComfyUI's page; everything else is in the .mjs files beside this one. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { keyOf, takePlace } from "./node-key.mjs";
import { REMEMBERING_NODE, callByNamesHere, keepNote } from "./remembered.mjs";
import { Reports } from "./reports.mjs";
import {
    LINE_NODES, PROGRESS_EVENT, REPORT_EVENT, Sentence, TOLD, lineOf, lines, mendSwitches, nodeAt, nodeLocated,
} from "./sentence.mjs";

const reports = new Reports();

app.registerExtension({
    name: "ConceptLoom.Sentences",

    setup() {
        api.addEventListener(PROGRESS_EVENT, ({ detail }) => {
            if (whence(detail) !== openGraph().id) return;
            nodeHere(detail.node)?.conceptLoomSentence?.say(detail.text, detail.curve);
        });
        api.addEventListener(REPORT_EVENT, ({ detail }) => {
            reports.hear(whence(detail), detail);
            reports.show(openGraph().id, nodeHere);
        });
        api.addEventListener("executing", ({ detail }) => {
            if (detail) return; // a node's turn; the end of a prompt is no node's
            reports.end();
            keepReports();
        });
    },

    afterConfigureGraph() {
        reports.show(openGraph().id, nodeHere);
        keepReports();
    },

    /** After an undo and a change of workflow, where nodes are made anew. */
    onNodeOutputsUpdated(outputs) {
        for (const [locator, output] of Object.entries(outputs)) repeat(nodeLocated(openGraph(), locator), output);
    },

    nodeCreated(node) {
        if (!LINE_NODES.has(node.comfyClass)) return;
        const line = document.createElement("div");
        const sentence = new Sentence(line);
        node.conceptLoomSentence = sentence;
        const widget = node.addDOMWidget("concept_loom_line", "concept_loom_line", line, {
            serialize: false, // keeps it out of prompts
            hideOnZoom: false,
            getMinHeight: () => 64,
            getValue: () => line.textContent,
            setValue: () => {},
        });
        widget.serialize = false; // keeps it out of saved workflows
        const executed = node.onExecuted;
        node.onExecuted = function (output) {
            executed?.apply(this, arguments);
            repeat(node, output);
        };
        const added = node.onAdded;
        node.onAdded = function () {
            added?.apply(this, arguments);
            takePlace(keyOf(openGraph(), this), widget.name, line);
        };
        const configured = node.onConfigure;
        node.onConfigure = function () {
            configured?.apply(this, arguments);
            const inputs = this.constructor.nodeData?.input;
            mendSwitches(this.widgets, (name) => (inputs?.optional?.[name] ?? inputs?.required?.[name])?.[1]?.default);
            sentence.tell(lines(this.properties[TOLD]));
        };
    },
});

app.registerExtension({
    name: "ConceptLoom.Remembered",

    beforeConfigureGraph: (workflow) => callByNamesHere(workflow, whereIs),

    nodeCreated(node) {
        if (node.comfyClass === REMEMBERING_NODE) keepNote(...noteOf(node), whatIsKnownOf);
    },

    async loadedGraphNode(node) {
        if (node.comfyClass !== REMEMBERING_NODE) return;
        const [chosen, noted] = noteOf(node);
        if (chosen.options.values.includes(chosen.value)) return;
        const { error } = await whereIs(chosen.value, noted.value);
        if (error) node.conceptLoomSentence.warn(error);
    },
});

function openGraph() {
    return app.rootGraph ?? app.graph;
}

/** The workflow that an event belongs to: the open one where its prompt brought none. */
function whence({ workflow }) {
    return workflow || openGraph().id;
}

function nodeHere(path) {
    return nodeAt(openGraph(), path);
}

function keepReports() {
    // Otherwise the page keeps them for a reload only once something is clicked.
    const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    if (reports.keep(openGraph().id, nodeHere)) tracker?.captureCanvasState?.();
}

function repeat(node, output) {
    if (output?.text) node?.conceptLoomSentence?.say(lineOf(output), output.curve?.[0]);
}

function noteOf(node) {
    return ["file", "remembered"].map((name) => node.widgets.find((one) => one.name === name));
}

/** @param {string} file */
async function whatIsKnownOf(file) {
    const answer = await api.fetchApi(`/concept_loom/concept?${new URLSearchParams({ file })}`);
    return answer.ok ? answer.json() : null;
}

/**
 * @param {string} file
 * @param {string} remembered
 */
async function whereIs(file, remembered) {
    const answer = await api.fetchApi(`/concept_loom/found?${new URLSearchParams({ file, remembered })}`);
    return answer.ok ? answer.json() : {};
}
