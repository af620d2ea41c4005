"""Cycles a pair of the compiled inner loops, by llvm-mca's models of the cores, beside what the core's arithmetic units could do.

    inner_loops.py --objdump OBJDUMP --mca LLVM_MCA --binary PROGRAM [--markdown FILE]

PROGRAM is an aarch64 program with the kernels in it. The innermost loop of each kernel is taken from its machine code, so what is
modelled is what runs. The models know issue and latency, not caches: rows and queries of a tile are in the first level when they are used.
"""
from __future__ import annotations

import argparse
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

DIM = 384
ITERATIONS = 500


@dataclass(frozen=True)
class Kernel:
    title: str
    symbol: str  # regular expression over demangled names
    work: str  # the instruction of which the innermost loop has the most
    multiplies: int  # multiply-adds of one such instruction
    pairs: int  # row × query pairs that the loop works on
    peak: dict[str, int]  # operations (two a multiply-add) a cycle and core
    goal: float  # share of the peak to reach, 0 when there is none
    why: str


# A72 and A76 issue one and two 128-bit multiply-adds a cycle. `smull` and `smlal` are half as wide as a register of bytes: 8 products each.
KERNELS = [
    Kernel("f32 tile, 6 × 12", r"neon::tile_f32", "fmla", 4, 72, {"cortex-a72": 8, "neoverse-n1": 16}, 0.95, "fmla v, v, v[i]"),
    Kernel("int8 tile with SDOT, 6 × 12", r"neon::tile_i8_dot", "sdot", 16, 72, {"neoverse-n1": 64}, 0.90, "sdot v, v, v[i]"),
    Kernel("int8 tile without dotprod", r"neon::tile_i8_mull", r"sml?[au]l+2?", 8, 0, {"cortex-a72": 16, "neoverse-n1": 16}, 0, "smull, smlal"),
]
CORES = ["cortex-a72", "neoverse-n1"]


def disassemble(objdump: str, binary: str) -> dict[str, list[tuple[int, str]]]:
    """(address, instruction) of each function, by demangled name."""
    text = subprocess.run([objdump, "-d", "-C", "--no-show-raw-insn", binary], check=True, capture_output=True, text=True).stdout
    functions: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for line in text.splitlines():
        if head := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            current = functions.setdefault(head[1], [])
        elif body := re.match(r"^\s*([0-9a-f]+):\s+(.*)$", line):
            current.append((int(body[1], 16), re.sub(r"\s*//.*$|\s+#\s.*$", "", body[2]).strip()))
    return functions


def innermost_loop(code: list[tuple[int, str]], work: str) -> list[str]:
    """The shortest loop with the most instructions of kind `work`, without its branch's address."""
    place = {address: i for i, (address, _) in enumerate(code)}
    best: list[str] = []
    most = 0
    for end, (_, instruction) in enumerate(code):
        branch = re.match(r"^(b\.\w+|b|cbn?z|tbn?z|j\w+)\s+(.*?,\s*)?([0-9a-f]+) <", instruction)
        start = place.get(int(branch[3], 16)) if branch else None
        if start is None or start > end:
            continue
        loop = [text for _, text in code[start : end + 1]]
        # A loop around another is not innermost: its count is the sum, so compare by density.
        count = sum(bool(re.match(rf"^v?(?:{work})\b", text)) for text in loop)
        if count and (not best or count / len(loop) > most / len(best)):
            best, most = loop, count
    if not best:
        raise SystemExit(f"no loop with {work}")
    return best


def assembly(loop: list[str]) -> str:
    """The loop as llvm-mca reads it: branches to a label of its own."""
    return "loop:\n" + "\n".join(re.sub(r"\b[0-9a-f]+ <.*>", "loop", text) for text in loop) + "\n"


def cycles(mca: str, triple: str, core: str, loop: list[str]) -> float:
    """Modelled cycles of one turn of the loop in the steady state."""
    def total(turns: int) -> int:
        out = subprocess.run([mca, f"-mtriple={triple}", f"-mcpu={core}", f"-iterations={turns}"], input=assembly(loop), check=True,
                             capture_output=True, text=True).stdout
        return int(re.search(r"Total Cycles:\s+(\d+)", out)[1])
    return (total(2 * ITERATIONS) - total(ITERATIONS)) / ITERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objdump", required=True)
    parser.add_argument("--mca", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--markdown", type=Path, help="write the table there as well, between its markers")
    parser.add_argument("--asm", action="store_true", help="print the loops")
    args = parser.parse_args()
    functions = disassemble(args.objdump, args.binary)
    lines = [f"| inner loop | core | cycles a turn | multiply-adds a turn | cycles a pair of {DIM} | operations a cycle | peak | share |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    missed = []
    for kernel in KERNELS:
        code = next((code for name, code in functions.items() if re.search(kernel.symbol + r"\b", name)), None)
        if code is None:
            raise SystemExit(f"{args.binary} has no {kernel.symbol}")
        loop = innermost_loop(code, kernel.work)
        work = sum(bool(re.match(rf"^(?:{kernel.work})\b", text)) for text in loop)
        memory = [text for text in loop if re.search(r"\[(sp|x29)\b", text)]
        if args.asm:
            print(f"{kernel.title}: {len(loop)} instructions, {work} {kernel.why}, {len(memory)} on the stack\n" + assembly(loop))
        for core in CORES:
            if core not in kernel.peak:
                continue
            turn = cycles(args.mca, "aarch64", core, loop)
            rate = 2 * work * kernel.multiplies / turn
            share = rate / kernel.peak[core]
            per_pair = DIM * turn / (work * kernel.multiplies)
            lines.append(f"| {kernel.title} (`{kernel.why}`) | {core} | {turn:.1f} | {work * kernel.multiplies} | {per_pair:.1f} | {rate:.1f} "
                         f"| {kernel.peak[core]} | {share:.1%} |")
            if share < kernel.goal:
                missed.append(f"{kernel.title} on {core}: {share:.1%} of the peak, the goal is {kernel.goal:.0%}")
            if memory and kernel.goal:
                missed.append(f"{kernel.title}: {len(memory)} instructions of the loop go through the stack")
    table = "\n".join(lines)
    print(table)
    if args.markdown:
        text = args.markdown.read_text(encoding="utf-8")
        begin, end = "<!-- table: make bench-arm -->\n", "\n<!-- end -->"
        head, _, rest = text.partition(begin)
        args.markdown.write_text(head + begin + table + end + rest.partition(end)[2], encoding="utf-8")
    if missed:
        raise SystemExit("missed:\n" + "\n".join(missed))


if __name__ == "__main__":
    main()
