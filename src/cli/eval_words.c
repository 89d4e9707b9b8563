/* eval_words - the words that prompts are made of: short, common, each once. See eval_texts.h. */
#include "eval_texts.h"

static const char *const nouns[] = {
    "apple",    "anchor",  "angle",   "answer",   "apron",   "arch",     "arrow",   "artist",  "attic",   "autumn",  "badge",
    "baker",    "ballad",  "bamboo",  "banner",   "barrel",  "basket",   "beacon",  "beard",   "berry",   "blanket", "blossom",
    "border",   "bottle",  "bramble", "branch",   "bread",   "breeze",   "brick",   "bridge",  "broom",   "brush",   "bucket",
    "button",   "cabin",   "cactus",  "camera",   "canal",   "candle",   "canvas",  "canyon",  "carpet",  "castle",  "cavern",
    "cellar",   "chain",   "chair",   "chalk",    "cherry",  "chimney",  "circle",  "circus",  "clock",   "cloud",   "coast",
    "cobbler",  "coffee",  "collar",  "comet",    "compass", "copper",   "coral",   "corner",  "cotton",  "cradle",  "crane",
    "crayon",   "cricket", "crystal", "cupboard", "curtain", "cushion",  "dagger",  "daisy",   "dancer",  "desert",  "diamond",
    "dolphin",  "donkey",  "dragon",  "drawer",   "drummer", "eagle",    "echo",    "elbow",   "ember",   "engine",  "envelope",
    "falcon",   "farmer",  "feather", "ferry",    "fiddle",  "finger",   "flag",    "flame",   "flute",   "forest",  "fossil",
    "fountain", "fox",     "garden",  "garlic",   "gate",    "giant",    "ginger",  "glacier", "glove",   "goblet",  "grape",
    "gravel",   "guitar",  "hammer",  "harbor",   "harvest", "hazel",    "hedge",   "helmet",  "heron",   "hill",    "honey",
    "horizon",  "island",  "ivory",   "jacket",   "jewel",   "jungle",   "kettle",  "key",     "kitchen", "kite",    "ladder",
    "lagoon",   "lamp",    "lantern", "lemon",    "letter",  "library",  "lily",    "lizard",  "locket",  "lumber",  "magnet",
    "mango",    "maple",   "marble",  "market",   "mask",    "meadow",   "medal",   "melon",   "mirror",  "mitten",  "monkey",
    "mountain", "mural",   "needle",  "nest",     "oak",     "ocean",    "olive",   "onion",   "orchard", "otter",   "owl",
    "oyster",   "paddle",  "palace",  "paper",    "parade",  "parrot",   "pasture", "path",    "peach",   "pearl",   "pebble",
    "pelican",  "pencil",  "pepper",  "piano",    "pigeon",  "pillow",   "pilot",   "planet",  "plum",    "pocket",  "pond",
    "poppy",    "potter",  "prairie", "puddle",   "puzzle",  "quarry",   "quill",   "rabbit",  "raft",    "rainbow", "raven",
    "ribbon",   "river",   "robin",   "rocket",   "rope",    "rose",     "saddle",  "sailor",  "salmon",  "sandal",  "saucer",
    "scarf",    "school",  "shadow",  "shelf",    "shell",   "shepherd", "silver",  "sketch",  "slipper", "snail",   "spark",
    "sparrow",  "spider",  "spoon",   "spring",   "statue",  "stone",    "stream",  "sugar",   "summit",  "sunset",  "swallow",
    "table",    "tailor",  "teapot",  "temple",   "thimble", "thunder",  "ticket",  "tiger",   "timber",  "tower",   "trumpet",
    "tulip",    "tunnel",  "turtle",  "umbrella", "valley",  "velvet",   "vessel",  "village", "violin",  "wagon",   "walnut",
    "water",    "weaver",  "whale",   "wheel",    "whistle", "willow",   "window",  "winter",  "wizard",  "yarn",    "zebra"};

static const char *const adjectives[] = {
    "ancient", "bitter", "brave",  "bright", "calm",   "careful", "clever", "cloudy", "cold",    "cozy",   "crimson", "curious",
    "dusty",   "eager",  "early",  "faded",  "fierce", "gentle",  "gilded", "golden", "grand",   "hidden", "hollow",  "humble",
    "icy",     "jolly",  "lively", "lonely", "loyal",  "lucky",   "mellow", "misty",  "narrow",  "noble",  "patient", "plain",
    "polite",  "proud",  "quiet",  "rapid",  "rusty",  "scarlet", "silent", "sleepy", "slender", "solemn", "steady",  "stormy",
    "sunny",   "tall",   "tender", "tidy",   "tiny",   "velvet",  "vivid",  "warm",   "wild",    "windy",  "wise",    "young"};

static const char *const names[] = {"Agnes",  "Albert",   "Beatrice",  "Bernard",  "Clara",    "Conrad",   "Dorothy",
                                    "Edmund", "Eleanor",  "Felix",     "Florence", "Gilbert",  "Harriet",  "Hugo",
                                    "Ingrid", "Jasper",   "Katharine", "Leopold",  "Lydia",    "Magnus",   "Matilda",
                                    "Nathan", "Olivia",   "Oscar",     "Philippa", "Quentin",  "Rosalind", "Rupert",
                                    "Sybil",  "Theodore", "Ursula",    "Victor",   "Winifred", "Wallace"};

static const char *const towns[] = {"Ashford",   "Bellmoor",  "Brackwater", "Caldwick",  "Dunmere",     "Eastholm",
                                    "Farrowby",  "Glenhurst", "Hartsea",    "Inverlock", "Kestonbury",  "Langmere",
                                    "Marlowe",   "Northgate", "Oakhampton", "Penfield",  "Quarrington", "Redcliffe",
                                    "Silverton", "Thornbury", "Underhill",  "Westbrook", "Wexley",      "Yarrowdale"};

const mka_words mka_words_nouns = {nouns, sizeof nouns / sizeof *nouns};
const mka_words mka_words_adjectives = {adjectives, sizeof adjectives / sizeof *adjectives};
const mka_words mka_words_names = {names, sizeof names / sizeof *names};
const mka_words mka_words_towns = {towns, sizeof towns / sizeof *towns};
