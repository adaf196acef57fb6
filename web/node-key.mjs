// @ts-check
/** A node in its workflow, which an undo or another workflow makes anew. Pure. */

/** @type {Map<string, HTMLElement>} the last element of each node's widget */
const SHOWN = new Map();

/**
 * Which node of which workflow it is; empty where that is not open any more.
 * @param {any} root
 * @param {any} node
 */
export function keyOf(root, node) {
    const graph = node.graph === root ? root : root.subgraphs?.get(node.graph?.id);
    return graph?.getNodeById(node.id) === node ? `${root.id}:${graph.id}:${node.id}` : "";
}

/**
 * Puts a node's element where that of the same node stands. Nodes 2.0 (WidgetDOM.vue, 1.47) mounts an element only
 * once: after an undo it would show that of the node before, and this one nowhere.
 * @param {string} key empty where its workflow is not open
 * @param {string} widget
 * @param {HTMLElement} element
 */
export function takePlace(key, widget, element) {
    if (!key) return;
    const before = SHOWN.get(`${key}:${widget}`);
    if (before !== element && before?.isConnected) before.replaceWith(element);
    SHOWN.set(`${key}:${widget}`, element);
}
