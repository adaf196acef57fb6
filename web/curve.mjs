// @ts-check
/** The curve of a learning, drawn under the sentence of its node. Pure: it is given its document. */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 100;
const HEIGHT = 32;
const EDGE = 2;

/** @typedef {[number, number]} Point step and loss */
/** @typedef {{ steps: number, label: string, training: Point[], held_out: Point[], best: number | null }} Curve */

/**
 * Points on a scale of their own, as an SVG path; a single one is no path.
 * @param {Point[]} points
 * @param {number} steps
 * @returns {string}
 */
export function pathOf(points, steps) {
    if (points.length < 2) return "";
    const losses = points.map(([, loss]) => loss);
    const [least, most] = [Math.min(...losses), Math.max(...losses)];
    const down = (HEIGHT - 2 * EDGE) / (most - least || 1);
    const at = points.map(([step, loss]) => `${round((WIDTH * step) / steps)} ${round(EDGE + (most - loss) * down)}`);
    return `M${at.join("L")}`;
}

/**
 * @param {Document} document
 * @param {Curve} curve
 * @returns {SVGElement}
 */
export function drawn(document, { steps, label, training, held_out, best }) {
    const picture = element(document, "svg", {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label,
        style: "display: block; width: 100%; height: 40px; margin-top: 4px;",
    });
    const title = element(document, "title", {});
    title.textContent = label;
    const mark = best === null ? [] : [[`M${round((WIDTH * best) / steps)} 0V${HEIGHT}`, 1, 0.6]];
    const lines = [[pathOf(training, steps), 1, 0.5], [pathOf(held_out, steps), 2, 1], ...mark];
    picture.append(title, ...lines.filter(([path]) => path).map(([d, width, opacity]) => element(document, "path", {
        d, "stroke-width": width, opacity, fill: "none", stroke: "var(--input-text, currentColor)",
        "vector-effect": "non-scaling-stroke",
    })));
    return picture;
}

/**
 * @param {Document} document
 * @param {string} kind
 * @param {Record<string, unknown>} attributes
 */
function element(document, kind, attributes) {
    const made = /** @type {SVGElement} */ (document.createElementNS(SVG, kind));
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
    return made;
}

/** @param {number} value */
function round(value) {
    return Math.round(100 * value) / 100;
}
