"""Train the embedded LM: `python -m sweep.embedded.train [--work DIR] [--out DIR] [--tokens N]`.

Training runs under bf16 autocast with fp32 master weights; Muon updates the blocks' matrices, AdamW the rest. A
checkpoint is written every few minutes, from which the same command goes on after an interruption. At the end the
weights are exported as fp16 safetensors and measured (`sweep.embedded.measure`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from sweep.embedded import WEIGHTS
from sweep.embedded.measure import write_card
from sweep.embedded.recipe import Recipe, batches, encode_documents, new_model, split_documents, train_tokenizer
from sweep.machine.process import keep_freed_memory

LOSS_CHUNK = 2048  # rows of logits that are in memory at the same time
LOG_EVERY = 50  # steps between two points of the loss curve


def optimizers(model: GPTNeoXForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks, and AdamW for embeddings, unembedding, norms and biases."""
    inside = {id(p) for p in model.gpt_neox.layers.parameters() if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in inside]
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True),
    ]


def backward(model: GPTNeoXForCausalLM, windows: torch.Tensor) -> float:
    """Accumulate the gradient of the mean next-token loss; return that loss in nats per token.

    The unembedding runs in chunks of rows, each followed by its backward pass, so that the logits take little memory.

    Args:
        windows: token ids (batch_size, context + 1).
    """
    inputs, targets = windows[:, :-1], windows[:, 1:].reshape(-1)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.gpt_neox(inputs, use_cache=False).last_hidden_state
        leaf = hidden.detach().requires_grad_()
        unembedding, total = model.get_output_embeddings().weight, 0.0
        for rows, wanted in zip(leaf.flatten(0, 1).split(LOSS_CHUNK), targets.split(LOSS_CHUNK), strict=True):
            loss = F.cross_entropy(F.linear(rows, unembedding).float(), wanted, reduction="sum") / targets.numel()
            loss.backward()
            total += loss.item()
    hidden.backward(leaf.grad)
    return total


def save_checkpoint(path: Path, model, opts, step: int, curve: list) -> None:
    """Write the state after `step` steps to `path`, whole or not at all."""
    state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step, "curve": curve}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def load_checkpoint(path: Path, model, opts) -> tuple[int, list]:
    """Put the state in `path` into the model and its optimizers; return (steps done, loss curve so far)."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for opt, saved in zip(opts, state["opts"], strict=True):
        opt.load_state_dict(saved)
    print(f"going on from step {state['step']}", flush=True)
    return state["step"], state["curve"]


def _trained_tokenizer(folder: Path, texts: list[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return the tokenizer in `folder`; train it on `texts` and save it there if it is missing."""
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    print(f"training the tokenizer on {len(texts)} files", flush=True)
    tokenizer = train_tokenizer(texts, recipe)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(recipe: Recipe, work: Path, checkpoint_every: int = 250):
    """Train the LM, going on from a checkpoint in the folder `work` if there is one.

    Returns:
        (model, tokenizer, loss curve [[tokens, nats per token], ...]).
    """
    train_documents, _ = split_documents()
    checkpoint = work / "checkpoint.pt"
    tokenizer = _trained_tokenizer(work / "tokenizer", [d.text for d in train_documents], recipe)
    encoded = encode_documents(tokenizer, train_documents)
    print(f"{sum(map(len, encoded)) / 1e6:.2f} M training tokens, {recipe.steps} steps", flush=True)

    torch.manual_seed(recipe.seed)
    model = new_model(recipe)
    opts = optimizers(model, recipe)
    base_lrs = [[g["lr"] for g in o.param_groups] for o in opts]
    first, curve = load_checkpoint(checkpoint, model, opts) if checkpoint.exists() else (0, [])

    bar = tqdm(total=recipe.steps, initial=first, desc="LM", unit="step", mininterval=5)
    recent: list[float] = []
    for step, windows in batches(encoded, recipe, first):
        recent.append(backward(model, torch.from_numpy(windows)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, lrs in zip(opts, base_lrs, strict=True):
            for group, lr in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = lr * recipe.lr_scale(step)
            opt.step()
            opt.zero_grad()
        bar.update()
        if (step + 1) % LOG_EVERY == 0:
            mean = sum(recent) / len(recent)
            recent.clear()
            curve.append([(step + 1) * recipe.batch_size * recipe.context, round(mean, 4)])
            bar.set_postfix_str(f"{mean:.3f} nats/token")
        if (step + 1) % checkpoint_every == 0:
            save_checkpoint(checkpoint, model, opts, step + 1, curve)
    return model, tokenizer, curve


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sweep.embedded.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".cache/embedded-lm"), help="checkpoints and tokenizer")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the finished model goes")
    parser.add_argument("--tokens", type=int, default=Recipe.tokens, help="training tokens")
    args = parser.parse_args(argv)
    keep_freed_memory()
    args.work.mkdir(parents=True, exist_ok=True)
    recipe = replace(Recipe(), tokens=args.tokens)
    started = time.time()
    model, tokenizer, curve = train(recipe, args.work)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    run = {"recipe": asdict(recipe), "curve": curve, "seconds_this_launch": round(time.time() - started)}
    (args.out / "training.json").write_text(json.dumps(run, indent=1))
    for file in args.out.glob("*.safetensors"):  # which transformers writes for the owner alone, whatever the umask
        file.chmod((args.out / "training.json").stat().st_mode & 0o777)
    write_card(args.out)


if __name__ == "__main__":
    main()
