// @ts-check
/** What samplers have told and is not yet in the workflow: nodes keep it when its prompt is over. Pure. */
import { TOLD, heard, lines } from "./sentence.mjs";

/** @typedef {import("./sentence.mjs").Told} Told */
/** @typedef {Parameters<typeof heard>[1] & { node: string }} Event */

export class Reports {
    /** @type {Map<string, Map<string, Told>>} by workflow, then by node */
    #fresh = new Map();
    /** Whether a prompt that has told something still runs. */
    #running = false;

    /**
     * @param {string} workflow
     * @param {Event} event
     */
    hear(workflow, event) {
        this.#running = true;
        const nodes = this.#fresh.get(workflow) ?? new Map();
        this.#fresh.set(workflow, nodes.set(event.node, heard(nodes.get(event.node), event)));
    }

    /** The prompt is over: no other sampler of it will tell anything. */
    end() {
        this.#running = false;
    }

    /**
     * Shows what a workflow's nodes were told.
     * @param {string} workflow
     * @param {(node: string) => any} nodeOf
     */
    show(workflow, nodeOf) {
        const fresh = this.#fresh.get(workflow) ?? [];
        for (const [node, told] of fresh) nodeOf(node)?.conceptLoomSentence?.tell(lines(told));
    }

    /**
     * Has the nodes of a workflow keep what they were told, once the prompt is over; true where that is something new.
     * The prompt's own id is new each time, and would make of every run a step to undo.
     * @param {string} workflow
     * @param {(node: string) => any} nodeOf
     */
    keep(workflow, nodeOf) {
        if (this.#running) return false;
        const told = [...(this.#fresh.get(workflow) ?? [])].map(([node, { samplers }]) => [nodeOf(node), { samplers }]);
        this.#fresh.delete(workflow);
        const changed = told.filter(([node, now]) => node && !sameLines(node.properties[TOLD], now));
        for (const [node, now] of changed) node.properties[TOLD] = now;
        return changed.length > 0;
    }
}

/**
 * @param {Told | undefined} before
 * @param {Told} now
 */
function sameLines(before, now) {
    return JSON.stringify(lines(before)) === JSON.stringify(lines(now));
}
