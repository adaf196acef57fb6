// @ts-check
/** Registers the widget that holds a Concept Dataset's pictures. */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { keyOf, takePlace } from "./node-key.mjs";
import { Copies } from "./picture-copies.mjs";
import { Gallery } from "./picture-gallery.mjs";
import { filesOf, uploaded } from "./picture-upload.mjs";
import { wordsOf } from "./picture-words.mjs";

const TYPE = "CONCEPT_LOOM_PICTURES";
const MIN_HEIGHT = 150;

app.registerExtension({
    name: "ConceptLoom.Pictures",

    getCustomWidgets() {
        return { [TYPE]: (node, name) => ({ widget: widgetOn(node, name), minWidth: 300, minHeight: MIN_HEIGHT }) };
    },
});

function widgetOn(node, name) {
    const gallery = new Gallery(document, {
        upload: (file) => uploaded(file, (route, init) => api.fetchApi(route, init)),
        address: (place, converted) =>
            api.apiURL(`/view?${new URLSearchParams({ ...place, ...(converted && { preview: "webp;60" }) })}`),
        changed: () => {
            node.graph?.setDirtyCanvas(true, true);
            app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
        },
        key: () => keyOf(app.rootGraph ?? app.graph, node),
        words: wordsOf(app.extensionManager?.setting?.get("Comfy.Locale")),
    });
    const widget = node.addDOMWidget(name, TYPE, gallery.element, {
        hideOnZoom: false,
        getMinHeight: () => MIN_HEIGHT,
        getValue: () => gallery.value,
        setValue: (value) => {
            gallery.value = value;
        },
    });
    // A run that is started while pictures are on their way waits for them.
    widget.serializeValue = () => gallery.copies.arrived.then(() => gallery.value);
    takeDrops(node, gallery);
    const added = node.onAdded;
    node.onAdded = function () {
        added?.apply(this, arguments);
        takePlace(gallery.host.key(), name, gallery.element);
    };
    const configured = node.onConfigure;
    node.onConfigure = function () {
        configured?.apply(this, arguments);
        Copies.handTo(gallery);
    };
    return widget;
}

/** The canvas asks the node; over the widget itself the browser asks the element. */
function takeDrops(node, gallery) {
    const hasFiles = (event) => Boolean(event.dataTransfer?.types?.includes("Files"));
    const add = (event) => filesOf(event.dataTransfer).then((files) => gallery.add(files));
    node.onDragOver = hasFiles;
    node.onDragDrop = (event) => hasFiles(event) && add(event).then(() => true);
    node.pasteFiles = (files) => {
        void gallery.add(files);
        return true;
    };
    gallery.element.addEventListener("dragover", (event) => {
        if (hasFiles(event)) event.preventDefault();
    });
    gallery.element.addEventListener("drop", (event) => {
        if (!hasFiles(event)) return;
        event.preventDefault(); // the page then leaves it alone; Nodes 2.0 must still see it to end its highlight
        void add(event);
    });
}
