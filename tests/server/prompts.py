"""Prompts of our nodes, and of the core nodes around them."""

STEPS = 4
Json = dict


def node(kind: str, **inputs: object) -> Json:
    return {"class_type": kind, "inputs": inputs}


def loom(kind: str, **inputs: object) -> Json:
    return node(f"ConceptLoom_{kind}", **inputs)


def learning(**changes: object) -> Json:
    """Load, dataset and Learn; 2 is the dataset, 3 the concept."""
    asked = {"placeholder": "mug", "class_word": "mug", "role": "subject", "method": "quick", "budget": "fast"}
    wired = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dataset": ["2", 0]}
    return {
        "1": loom("LoadPlaygroundModel"),
        "2": loom("ConceptDataset", folder="example", holdout="auto"),
        "3": loom("LearnConcept", **wired, **{**asked, "seed": 0, "steps": STEPS, "batch_size": 2, **changes}),
    }


def drawing(concept: list, text: str = "a photo of <mug> on the beach", seed: int = 0, **composed: object) -> Json:
    """Compose over `concept`, sample, save; 10 is Compose."""
    composed = {"strength": 1.0, **composed}
    sampler = {"steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampled = {"model": ["10", 0], "positive": ["11", 0], "negative": ["12", 0], "latent_image": ["13", 0]}
    return {
        "10": loom("ComposeConcepts", model=["1", 0], clip=["1", 1], **{"concepts.concept0": concept}, **composed),
        "11": node("CLIPTextEncode", clip=["10", 1], text=text),
        "12": node("CLIPTextEncode", clip=["10", 1], text=""),
        "13": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "14": node("KSampler", seed=seed, **sampler, **sampled),
        "15": node("VAEDecode", samples=["14", 0], vae=["1", 2]),
        "16": node("SaveImage", images=["15", 0], filename_prefix="drawn"),
    }
