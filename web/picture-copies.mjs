// @ts-check
/** Pictures on their way to the server. They outlive their gallery: an undo or another workflow makes it anew. Pure. */

/** @typedef {import("./picture-gallery.mjs").Gallery} Gallery */

/** @type {Map<string, Copies>} by the node whose gallery shows them */
const UNDERWAY = new Map();

export class Copies {
    /** Resolves when all that was dropped so far is on the server. */
    arrived = Promise.resolve();
    /** How many drops are not. */
    #waiting = 0;
    /** @type {string[]} entries that came while their workflow was not open */
    #missed = [];

    /** @param {Gallery} gallery */
    constructor(gallery) {
        this.gallery = gallery;
    }

    /**
     * Copies in order, one after the other, and says what could not be.
     * @param {File[]} files
     * @param {string[]} said
     */
    send(files, said) {
        const key = this.gallery.host.key();
        UNDERWAY.set(key, this);
        this.#waiting += 1;
        this.arrived = this.arrived.then(async () => {
            await this.#copy(files, said);
            this.#waiting -= 1;
            this.#settle(key);
        });
        return this.arrived;
    }

    /**
     * What is shown from now on by `gallery`, if its node has pictures on their way.
     * @param {Gallery} gallery
     */
    static handTo(gallery) {
        const key = gallery.host.key();
        const copies = UNDERWAY.get(key);
        if (!key || !copies || copies.gallery === gallery) return;
        gallery.said.textContent = copies.gallery.said.textContent;
        gallery.copies = copies;
        copies.gallery = gallery;
        if (copies.#missed.length) gallery.take(copies.#missed.splice(0));
        copies.#settle(key);
    }

    /**
     * @param {File[]} files
     * @param {string[]} said
     */
    async #copy(files, said) {
        const { upload, words } = this.gallery.host;
        for (const [done, file] of files.entries()) {
            this.gallery.said.textContent = words.sending(done + 1, files.length);
            try {
                this.#receive(await upload(file));
            } catch (error) {
                said.push(words.refused(file.name, error instanceof Error ? error.message : String(error)));
            }
        }
        this.gallery.said.textContent = said.join("\n");
    }

    /** @param {string} entry */
    #receive(entry) {
        if (this.gallery.host.key()) this.gallery.take([entry]);
        else this.#missed.push(entry);
    }

    /** @param {string} key */
    #settle(key) {
        if (!this.#waiting && this.gallery.host.key() === key) UNDERWAY.delete(key);
    }
}
