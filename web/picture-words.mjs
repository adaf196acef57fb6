// @ts-check
/** What the pictures on a Concept Dataset node say, in the page's language. */

const WORDS = {
    en: {
        choose: "Choose pictures",
        clear: "Remove all",
        empty: "Drop pictures here",
        list: "Pictures of this dataset",
        remove: (/** @type {string} */ name) => `Remove ${name}`,
        count: (/** @type {number} */ count) => (count === 1 ? "1 picture" : `${count} pictures`),
        sending: (/** @type {number} */ done, /** @type {number} */ all) => `Copying ${done} of ${all} ...`,
        refused: (/** @type {string} */ name, /** @type {string} */ why) => `${name} was not copied: ${why}.`,
        other: (/** @type {string} */ names) => `No picture, left out: ${names}.`,
    },
    ja: {
        choose: "画像を選ぶ",
        clear: "すべて外す",
        empty: "ここに画像をドロップ",
        list: "このデータセットの画像",
        remove: (/** @type {string} */ name) => `${name} を外す`,
        count: (/** @type {number} */ count) => `画像 ${count} 枚`,
        sending: (/** @type {number} */ done, /** @type {number} */ all) => `コピー中 ${done} / ${all} ...`,
        refused: (/** @type {string} */ name, /** @type {string} */ why) => `${name} をコピーできませんでした：${why}。`,
        other: (/** @type {string} */ names) => `画像ではないため除外：${names}。`,
    },
};

/** @typedef {typeof WORDS.en} Words */

/**
 * @param {unknown} language such as "en" or "ja"
 * @returns {Words}
 */
export function wordsOf(language) {
    return language === "ja" ? WORDS.ja : WORDS.en;
}
