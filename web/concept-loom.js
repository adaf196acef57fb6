// @ts-check
/** Registers Concept Loom with ComfyUI's page; everything else is in the .mjs files beside this one. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { REMEMBERING_NODE, callByNamesHere, keepNote } from "./remembered.mjs";
import {
    LINE_NODES, PROGRESS_EVENT, REPORT_EVENT, Sentence, TOLD, heard, lineOf, lines, mendSwitches, nodeAt,
    nodeLocated,
} from "./sentence.mjs";

app.registerExtension({
    name: "ConceptLoom.Sentences",

    setup() {
        api.addEventListener(PROGRESS_EVENT, ({ detail }) => {
            nodeAt(openGraph(), detail.node)?.conceptLoomSentence?.say(detail.text, detail.curve);
        });
        api.addEventListener(REPORT_EVENT, (event) => {
            const node = nodeAt(openGraph(), event.detail.node);
            if (!node?.conceptLoomSentence) return;
            node.properties[TOLD] = heard(node.properties[TOLD], event.detail);
            node.conceptLoomSentence.tell(lines(node.properties[TOLD]));
            // Otherwise the page keeps it for a reload only once something is clicked.
            app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
        });
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
