"""C++ source of programs for CPUs: the text of `codegen` translated line by line, on vectors of 16 elements.

What torch's compiler makes of the bit operations of stochastic rounding is five to ten times slower than memory. The
translation has the same operations in the same order; `kernels` compares its bits with plain Python before first use.

Knows the text of programs; knows no compiler and no tensor.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from zotune.core import noise
from zotune.errors import RecipeError

TYPES: Final = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "half"}
FLAGS: Final = ("-fsigned-zeros", "-fno-math-errno", "-Wno-psabi")
"""Options of the compiler beyond torch's own. The width of vectors is in the source, not in an option."""

_NAMES: Final = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}
_TESTS: Final = {ast.LtE: "le", ast.Lt: "lt", ast.GtE: "ge", ast.Gt: "gt", ast.NotEq: "ne"}


def source(text: str, dtypes: Sequence[torch.dtype]) -> str:
    """The C++ source of a program with float32 arithmetic. dtypes: of its tensors, in order.

    It exports `run(tensors, s, k, last, places, count, threads)`: pointers to the tensors, the numbers, the keys, the
    index of the last key, the indices of the elements (or null), their number, and threads to use at most. Raises
    RecipeError for a program that it cannot express.
    """
    if not all(d in TYPES for d in dtypes):
        raise RecipeError(f"no C++ for tensors of {sorted({str(d) for d in dtypes})}")
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [a.arg for a in function.args.args][: len(dtypes)]
    writer = _Writer(dict(zip(names, (TYPES[d] for d in dtypes), strict=True)))
    lines = [writer.statement(s) for s in function.body]
    types, written, shared = writer.types, sorted(writer.written), writer.shared
    quick = _Quick(types)
    quick_lines = [quick.statement(s) for s in function.body] if _is_quick(function.body, types) else []
    scalars, keys = _count(function, "s"), _count(function, "k")
    parts = {
        **{f"M{j}": f"{m & 0xFFFFFFFF}u" for j, m in enumerate(noise.MULTIPLIERS)},
        "BODY": "\n".join(f"  {line}" for line in lines if line),
        "POINTERS": ", ".join(f"{t} *{n}" for n, t in types.items()),
        "CASTS": "\n".join(f"  {t} *const {n} = ({t} *)tensors[{j}];" for j, (n, t) in enumerate(types.items())),
        "AHEAD": "\n".join(f"  fetch_ahead({n});" for n in types),
        "NAMES": ", ".join(types),
        "MOVED": ", ".join(f"{n} + at" for n in types),
        "LOCAL": ", ".join(f"{n}_" for n in types),
        "LOADS_LANES": "\n".join(_local(n, t, "LANES", f"{n}_") for n, t in types.items()),
        "LOADS_RUN": "\n".join(_local(n, t, "RUN", f"{n}_ + gap") for n, t in types.items()),
        "STORES_RUN": "\n".join(f"      copy({n} + at, {n}_ + gap, size);" for n in written),
        "STORES": "\n".join(f"      copy({n} + at, {n}_, size);" for n in written),
        "FIELDS": "\n".join(f"  {kind} {kind}{slot};" for kind, slot in shared),
        "INITIAL": " : " * bool(shared) + ", ".join(f"{kind}{slot}(first, k + {slot})" for kind, slot in shared),
        "SCALARS": str(max(scalars, 1)),
        "KEYS": str(max(keys, 1)),
        "QUICK_BODY": "\n".join(f"  {line}" for line in quick_lines if line),
        "QUICK_TARGET": written[0],
        "FIXED_FIELDS": "\n".join(f"  Normals Normals{slot};" for slot in quick.normals),
        "FIXED_INITIAL": " : " * bool(quick.normals)
        + ", ".join(f"Normals{slot}(k + {slot})" for slot in quick.normals),
    }
    whole = PRELUDE + PROGRAM + (QUICK if quick_lines else SLOW) + ENTRY
    for name, part in parts.items():
        whole = whole.replace(f"@{name}@", part)
    return whole


def _local(name: str, type: str, length: str, place: str) -> str:
    """A local copy of the part of a tensor that is left."""
    return f"      {type} {name}_[{length}] = {{}}; copy({place}, {name} + at, size);"


def _count(function: ast.FunctionDef, name: str) -> int:
    """Elements of an argument that a program reads: one more than the largest index."""
    indices = [
        x.slice.value
        for x in ast.walk(function)
        if isinstance(x, ast.Subscript)
        and isinstance(x.value, ast.Name)
        and x.value.id == name
        and isinstance(x.slice, ast.Constant)
        and isinstance(x.slice.value, int)
    ]
    return max(indices, default=-1) + 1


def _is_quick(body: Sequence[ast.stmt], types: Mapping[str, str]) -> bool:
    """Whether a program's one store is a rounded sum in bfloat16: then ordinary numbers take fewer operations."""
    stores = [s.value.args for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    if len(stores) != 1:
        return False
    match stores[0]:
        case [ast.Name(id=target), ast.Call(func=ast.Name(id="rounded_sum"))]:
            return types[target] == "bf16"
    return False


class _Writer:
    """Translates statements. types: C++ type by tensor; written: tensors that are stored to; shared: words that the
    elements of a run share, by stream."""

    def __init__(self, types: dict[str, str]) -> None:
        self.types = types
        self.written: set[str] = set()
        self.shared: dict[tuple[str, int], None] = {}

    def statement(self, s: ast.stmt) -> str:
        match s:
            case ast.Assign(value=ast.Call(func=ast.Name(id="place"))):
                return ""
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                return f"const auto {name} = {self.expression(value)};"
            case ast.Expr(value=ast.Call(func=ast.Name(id="store"), args=[ast.Name(id=target), value])):
                self.written.add(target)
                return f"save({target}, {self.expression(value)});"
        raise RecipeError(f"no C++ for {ast.unparse(s)}")

    def expression(self, x: ast.expr) -> str:
        match x:
            case ast.Name(id=name):
                return name
            case ast.Constant(value=0):
                return "0.0"
            case ast.Subscript(value=ast.Name(id="s"), slice=ast.Constant(value=int(j))):
                return f"s[{j}]"
            case ast.BinOp(left=a, op=op, right=b) if type(op) in _NAMES:
                return f"{_NAMES[type(op)]}({self.expression(a)}, {self.expression(b)})"
            case ast.Compare(left=a, ops=[op], comparators=[b]) if type(op) in _TESTS:
                return f"{_TESTS[type(op)]}({self.expression(a)}, {self.expression(b)})"
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.call(name, args)
        raise RecipeError(f"no C++ for {ast.unparse(x)}")

    def call(self, name: str, args: list[ast.expr]) -> str:
        if name == "units_normal":
            return f"normal(i, k + {self.slot(args[-2])})"
        if name == "units_rademacher":
            return f"rademacher({self.words('Signs', args[-2])}, i, group, k + {self.slot(args[-2])})"
        if name in ("rounded", "rounded_sum"):
            *values, target, _, key, _ = args
            assert isinstance(target, ast.Name)
            inner = ", ".join(self.expression(v) for v in values)
            if self.types[target.id] == "float":
                return f"vector({inner})" if name == "rounded" else f"vector(add({inner}))"
            if name == "rounded":
                return f"rounded(({self.types[target.id]} *)0, vector({inner}), hashed(i, k + {self.slot(key)}))"
            word = f"rotated({self.words('Words', key)}, i, group, k + {self.slot(key)})"
            return f"rounded_sum(({self.types[target.id]} *)0, {inner}, {word})"
        return f"{name}_({', '.join(self.expression(a) for a in args)})"

    def words(self, kind: str, key: ast.expr) -> str:
        slot = self.slot(key)
        self.shared[kind, slot] = None
        return f"shared.{kind}{slot}"

    @staticmethod
    def slot(key: ast.expr) -> int:
        """The index of a key in k."""
        assert isinstance(key, ast.Subscript)
        assert isinstance(key.slice, ast.Constant)
        assert isinstance(key.slice.value, int)
        return key.slice.value


class _Quick(_Writer):
    """Translates for whole runs of ordinary numbers: nothing is stored, and what noise needs of a key is computed once.
    normals: slots of keys of normal noise."""

    def __init__(self, types: dict[str, str]) -> None:
        super().__init__(types)
        self.normals: dict[int, None] = {}

    def statement(self, s: ast.stmt) -> str:
        match s:
            case ast.Expr(value=ast.Call(func=ast.Name(id="store"), args=[_, ast.Call(args=[a, b, _, _, key, _])])):
                word = f"rotated({self.words('Words', key)}, i, group, k + {self.slot(key)})"
                return f"return quick_sum(vector({self.expression(a)}), vector({self.expression(b)}), {word}, worst);"
        return super().statement(s)

    def call(self, name: str, args: list[ast.expr]) -> str:
        if name == "units_normal":
            slot = self.slot(args[-2])
            self.normals[slot] = None
            return f"normal(fixed.Normals{slot}, first, group)"
        return super().call(name, args)


PRELUDE: Final = r"""
#include <cstdint>
#include <cstring>
#include <cmath>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#define INLINE static inline __attribute__((always_inline))
enum { LANES = 16, SHARERS = 4, RUN = LANES * SHARERS };
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));
typedef double D __attribute__((vector_size(128)));
struct bf16 { uint16_t bits; };
struct half { uint16_t bits; };
static const U LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <class T> INLINE void copy(T *to, const T *from, int64_t size) { std::memcpy(to, from, size * sizeof(T)); }
template <class To, class From> INLINE To as(From x) { To y; std::memcpy(&y, &x, sizeof(y)); return y; }
INLINE F vector(double x) { return (float)x - F{}; }
INLINE F vector(F x) { return x; }
INLINE float narrow(double x) { return (float)x; }
INLINE D wide(F x) { return __builtin_convertvector(x, D); }

// noise
INLINE U folded(U x) { return x ^ (x >> 16); }
INLINE U hashed(U i, const int32_t *k) {
  U x = (i ^ (uint32_t)k[0]) * @M0@ + (uint32_t)k[1];
  x = folded(x) * @M1@;
  return folded(folded(x) * @M2@);
}
INLINE uint32_t hashed(uint32_t i, const int32_t *k) {
  uint32_t x = (i ^ (uint32_t)k[0]) * @M0@ + (uint32_t)k[1];
  x = (x ^ (x >> 16)) * @M1@;
  x = (x ^ (x >> 16)) * @M2@;
  return x ^ (x >> 16);
}
INLINE F sum_of_bytes(U x) {
#if defined(__AVX512VNNI__)
  const I sum = (I)_mm512_dpbusd_epi32(_mm512_set1_epi32(-510), (__m512i)x, _mm512_set1_epi8(1));
#else
  const U pairs = (x & 0xFF00FFu) + ((x >> 8) & 0xFF00FFu);
  const I sum = (I)((pairs & 0xFFFFu) + (pairs >> 16)) - 510;
#endif
  return __builtin_convertvector(sum, F);
}
INLINE F normal(U i, const int32_t *k) { return sum_of_bytes(hashed(i, k)); }
struct Normals {  // the first round of the hash for the places in a run of 64, whose first element adds to it
  U part[SHARERS];
  uint32_t high;
  Normals(const int32_t *k) : high((uint32_t)k[0] & ~63u) {
    for (int j = 0; j < SHARERS; ++j)
      part[j] = ((LANE + (uint32_t)(j * LANES)) ^ ((uint32_t)k[0] & 63u)) * @M0@ + (uint32_t)k[1];
  }
};
INLINE F normal(const Normals &n, uint32_t first, int group) {
  U x = n.part[group] + (first ^ n.high) * @M0@;
  x = folded(x) * @M1@;
  return sum_of_bytes(folded(folded(x) * @M2@));
}
struct Signs {  // of a run
  uint32_t word[RUN / 32];
  Signs(uint32_t first, const int32_t *k) {
    for (int j = 0; j < RUN / 32; ++j) word[j] = hashed((first >> 5) + j, k);
  }
};
struct Words {
  U word;
  Words(uint32_t first, const int32_t *k) : word(hashed((first >> 2) + LANE, k)) {}
};
INLINE F sign_of(U word, U by) { return (((word >> by) & 1u) != 0) ? vector(1.0) : vector(-1.0); }
INLINE F rademacher(const Signs &shared, U, int group, const int32_t *) {
  return sign_of(shared.word[group / 2] - U{}, LANE + (uint32_t)(group % 2 * LANES));
}
INLINE U rotated(const Words &shared, U, int group, const int32_t *) {
  const U w = shared.word;
  return group ? (w << (8 * group) | w >> (32 - 8 * group)) >> 2 : w >> 2;
}
struct None { None(uint32_t, const int32_t *) {} };  // elements anywhere share nothing
INLINE F rademacher(const None &, U i, int, const int32_t *k) { return sign_of(hashed(i >> 5, k), i & 31u); }
INLINE U rotated(const None &, U i, int, const int32_t *k) {
  const U w = hashed((i >> 2 & 0x3FFFFFF0u) | (i & 15u), k), by = i >> 1 & 24u;
  return (w << by | (w >> 1) >> (31u - by)) >> 2;
}

// memory
template <class T> INLINE void fetch_ahead(const T *p) {  // the arithmetic hides the wait
  for (uintptr_t at = 0; at < RUN * sizeof(T); at += 64) __builtin_prefetch((const void *)((uintptr_t)p + 2048 + at));
}
INLINE H raw(const uint16_t *p) { H h; std::memcpy(&h, p, sizeof(h)); return h; }
#if defined(__AVX512F__)
INLINE U widened(H h) { return (U)_mm512_cvtepu16_epi32((__m256i)h); }
INLINE H narrowed(U x) { return (H)_mm512_cvtepi32_epi16((__m512i)x); }
#else
INLINE U widened(H h) { return __builtin_convertvector(h, U); }
INLINE H narrowed(U x) { return __builtin_convertvector(x, H); }
#endif
INLINE F load_(const float *p) { F x; std::memcpy(&x, p, sizeof(x)); return x; }
INLINE F load_(const bf16 *p) { return as<F>(widened(raw(&p->bits)) << 16); }
INLINE F load_(const half *p) {
#if defined(__AVX512F__)
  return (F)_mm512_cvtph_ps((__m256i)raw(&p->bits));
#else
  const U h = widened(raw(&p->bits));
  U bits = as<U>(as<F>((h & 0x7FFFu) << 13) * 0x1p112f);
  bits |= (U)((h & 0x7C00u) == 0x7C00u) & 0x7F800000u;
  return as<F>(bits | (h & 0x8000u) << 16);
#endif
}
INLINE void save(float *p, F x) { std::memcpy(p, &x, sizeof(x)); }
INLINE void save(float *p, double x) { save(p, vector(x)); }
INLINE void save16(void *p, U bits) { const H h = narrowed(bits); std::memcpy(p, &h, sizeof(h)); }
INLINE void save(bf16 *p, U bits) { save16(p, bits); }
INLINE void save(half *p, U bits) { save16(p, bits); }

// rounding
#if defined(__AVX512F__)
typedef __m512i V;
INLINE U flipped(U x, U by, U mask) { return (U)_mm512_ternarylogic_epi32((V)x, (V)by, (V)mask, 0x78); }
INLINE U set(U x, U by, U mask) { return (U)_mm512_ternarylogic_epi32((V)x, (V)by, (V)mask, 0xF8); }
INLINE I nearest(F x) { return (I)_mm512_cvtps_epi32((__m512)x); }
#else
INLINE U flipped(U x, U by, U mask) { return x ^ (by & mask); }
INLINE U set(U x, U by, U mask) { return x | (by & mask); }
INLINE I nearest(F x) { return (I)(as<U>(x + 12582912.0f) - 0x4B400000u); }  // below 2**22
#endif
INLINE U all(uint32_t x) { return x - U{}; }
INLINE U exponent(U bits) { return bits & 0x7F800000u; }
INLINE U half_of(U size, I raised, F x) {  // size: bits of a float32, of one above 2**-14 where it is raised
  U h = (size >> 13) - (raised ? all(113u << 10) : all(112u << 10));
  h = h < 0x7BFFu ? h : all(0x7BFFu);
  h = as<F>(as<U>(x) & 0x7FFFFFFFu) < 65520.0f ? h : all(0x7C00u);
  return x == x ? h : all(0x7E00u);
}
INLINE U bf16_of(U bits, U carry, F x) {  // infinite only where rounding to the nearest value makes it so
  const I fits = as<F>(as<U>(x) & 0x7FFFFFFFu) < 0x1.ffp127f;
  const U h = (bits + (fits ? carry : all(0x8000u))) >> 16;
  return h + (U)(fits & ((h & 0x7FFFu) == 0x7F80u));
}
INLINE U rounded(bf16 *, F x, U word) { return bf16_of(as<U>(x), word & 0xFFFFu, x); }
INLINE U rounded(half *, F x, U word) {
  const U bits = as<U>(x), e = exponent(bits);
  const U least = (e > (113u << 23) ? e : all(113u << 23)) - (10u << 23);
  const F quantum = as<F>(least), inverse = as<F>((254u << 23) - least);
  const F uniform = __builtin_convertvector((I)(word & 0x1FFFu), F) * 0x1p-13f;
  const F steps = x * inverse + uniform;  // below 2**12
  I whole = __builtin_convertvector(steps, I);
  whole += (I)(__builtin_convertvector(whole, F) > steps);
  const F y = __builtin_convertvector(whole, F) * quantum;
  const U size = as<U>(y) & 0x7FFFFFFFu;
  const I small = as<F>(size) < 0x1p-14f;
  const F raised = as<F>(size) + as<F>((U)small & (113u << 23));
  const I finite = e != 0x7F800000u;
  return set(half_of(finite ? as<U>(raised) : e, small & finite, x), (finite ? as<U>(y) : bits) >> 16, all(0x8000u));
}
struct Sum { F x, below; U sign; };  // sign: in the highest bit, a zero has that of a
INLINE Sum exact_sum(F a, F b) {
  const F x = a + b, below = b - (x - a);
  const U bits = as<U>(x), top = all(0x80000000u);
  return {x, as<F>(flipped(as<U>(below), bits, top)), x == 0.0f ? set(bits, as<U>(a), top) : bits};
}
template <int FINE> INLINE U carry_of(U bits, F below, U word) {
  const U next = bits - (below < 0.0f ? all(1) : U{});  // below a power of two the last place is half as large
  const F unit = as<F>((254u << 23) - exponent(next));
  const F scale = FINE == 14 ? vector(0x1p37) : vector(0x1p40);
  return (U)((I)(word + (U)nearest(below * unit * scale)) >> FINE);
}
INLINE U rounded_sum(bf16 *, F a, F b, U word) {
  const Sum s = exact_sum(a, b);
  const U bits = as<U>(s.x), carry = carry_of<14>(bits, s.below, word);
  return bf16_of(s.sign, carry, s.x);
}
INLINE U rounded_sum(half *, F a, F b, U word) {
  const Sum s = exact_sum(a, b);
  const F size = as<F>(as<U>(s.x) & 0x7FFFFFFFu);
  const I small = (size < 0x1p-14f) | ((size == 0x1p-14f) & (s.below < 0.0f));
  const F base = as<F>((U)small & (113u << 23)), raised = size + base;
  const U bits = as<U>(raised), carry = carry_of<17>(bits, s.below + (size - (raised - base)), word);
  return set(half_of(bits + carry, small, s.x), s.sign >> 16, all(0x8000u));
}
template <class T, class A, class B> INLINE U rounded_sum(T *t, A a, B b, U word) {
  return rounded_sum(t, vector(a), vector(b), word);
}
#if defined(__AVX512BW__)
// As rounded_sum in bfloat16, in the upper halves. Right while exponents leave room on both sides, which the largest
// of all `worst` tells: at most QUICK.
enum : uint32_t { QUICK = 0x7E000000u };
INLINE U quick_sum(F a, F b, U word, U &worst) {
  const F x = a + b;
  const U bits = as<U>(x), below = flipped(as<U>(b - (x - a)), bits, all(0x80000000u));
  const U next = bits + (U)((I)below >> 31);
  const U unit = ~next & 0x7F800000u;
  const U edge = unit - 0x01000000u;
  worst = worst > edge ? worst : edge;
  const U units = (U)_mm512_fmadd_ps((__m512)as<F>(below), (__m512)as<F>(unit), (__m512)as<F>(all(0x39400000u)));
  return bits + ((word + units) >> 14) - 0xE500u;  // 0x39400000 >> 14
}
INLINE void save_pair(bf16 *p, U low, U high) {
  static const H EVEN = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i odd = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)EVEN), (__m256i)(EVEN + (uint16_t)32), 1);
  _mm512_storeu_si512(p, _mm512_permutex2var_epi16((__m512i)low, odd, (__m512i)high));
}
#endif

// arithmetic: a number takes part as float32, and numbers among themselves as float64
#define INFIX(name, op) \
  INLINE F name(F a, F b) { return a op b; } \
  INLINE F name(F a, double b) { return a op vector(b); } \
  INLINE F name(double a, F b) { return vector(a) op b; } \
  INLINE double name(double a, double b) { return a op b; }
INFIX(add, +) INFIX(sub, -) INFIX(mul, *)
#define TEST(name, op) \
  INLINE I name(F a, F b) { return a op b; } \
  INLINE I name(F a, double b) { return a op vector(b); } \
  INLINE I name(double a, F b) { return vector(a) op b; } \
  INLINE bool name(double a, double b) { return a op b; }
TEST(le, <=) TEST(lt, <) TEST(ge, >=) TEST(gt, >) TEST(ne, !=)
INLINE F div_(F a, F b) { return __builtin_convertvector(wide(a) / wide(b), F); }
INLINE F div_(F a, double b) { return __builtin_convertvector(wide(a) / (b - D{}), F); }
INLINE F div_(double a, F b) { return __builtin_convertvector((a - D{}) / wide(b), F); }
INLINE F div_(double a, double b) { return vector(a / b); }
INLINE F sqrt_(F x) {
  D y = wide(x);
  for (int j = 0; j < LANES; ++j) y[j] = std::sqrt(y[j]);
  return __builtin_convertvector(y, F);
}
INLINE F sqrt_(double x) { return sqrt_(vector(x)); }
INLINE F abs_(F x) { return as<F>(as<U>(x) & 0x7FFFFFFFu); }
INLINE F abs_(double x) { return abs_(vector(x)); }
INLINE F as_number_(I c) { return c ? vector(1.0) : vector(0.0); }
INLINE double as_number_(double x) { return x; }
INLINE F sign_(F x) { return as_number_(x > 0.0f) - as_number_(x < 0.0f); }
INLINE F sign_(double x) { return sign_(vector(x)); }
template <class A, class B> INLINE F choose_(I c, A a, B b) { return c ? vector(a) : vector(b); }
INLINE double choose_(bool c, double a, double b) { return narrow(c ? a : b); }
template <class A, class B> INLINE F choose_(bool c, A a, B b) { return c ? vector(a) : vector(b); }
INLINE F larger(F a, F b) { return ((a > b) | (a != a)) ? a : b; }
INLINE F smaller(F a, F b) { return ((a < b) | (a != a)) ? a : b; }
template <class A, class B> INLINE F maximum_(A a, B b) { return larger(vector(a), vector(b)); }
template <class A, class B> INLINE F minimum_(A a, B b) { return smaller(vector(a), vector(b)); }
INLINE F apart_(F x) { return x; }
"""

PROGRAM: Final = r"""
template <class Signs, class Words> struct Shared {
@FIELDS@
  Shared(uint32_t first, const int32_t *k)@INITIAL@ {}
};
struct Fixed {  // of a key, for all runs
@FIXED_FIELDS@
  Fixed(const int32_t *k)@FIXED_INITIAL@ {}
};
template <class S> INLINE void sixteen(@POINTERS@, U i, int group, const double *s, const int32_t *k, const S &shared) {
@BODY@
}
static __attribute__((noinline)) void any_64(@POINTERS@, uint32_t first, const double *s, const int32_t *k) {
  const Shared<Signs, Words> shared(first, k);
#pragma GCC unroll 4
  for (int group = 0; group < SHARERS; ++group) {
    const int at = group * LANES;
    sixteen(@MOVED@, first + (uint32_t)at + LANE, group, s, k, shared);
  }
}
"""

SLOW: Final = r"""
INLINE void run_of_64(@POINTERS@, uint32_t first, const double *s, const int32_t *k, const Fixed &) {
  const Shared<Signs, Words> shared(first, k);
@AHEAD@
#pragma GCC unroll 4
  for (int group = 0; group < SHARERS; ++group) {
    const int at = group * LANES;
    sixteen(@MOVED@, first + (uint32_t)at + LANE, group, s, k, shared);
  }
}
"""

QUICK: Final = r"""
#if defined(__AVX512BW__)
INLINE U quick(@POINTERS@, uint32_t first, int group, const double *s, const int32_t *k,
               const Shared<Signs, Words> &shared, const Fixed &fixed, U &worst) {
  const U i = first + (uint32_t)(group * LANES) + LANE;
@QUICK_BODY@
}
INLINE void run_of_64(@POINTERS@, uint32_t first, const double *s, const int32_t *k, const Fixed &fixed) {
  const Shared<Signs, Words> shared(first, k);
@AHEAD@
  U worst = {}, sums[SHARERS];
#pragma GCC unroll 4
  for (int group = 0; group < SHARERS; ++group) {
    const int at = group * LANES;
    sums[group] = quick(@MOVED@, first, group, s, k, shared, fixed, worst);
  }
  if (__builtin_expect(_mm512_cmpgt_epu32_mask((__m512i)worst, (__m512i)all(QUICK)), 0)) {
    any_64(@NAMES@, first, s, k);
  } else {
    save_pair(@QUICK_TARGET@, sums[0], sums[1]);
    save_pair(@QUICK_TARGET@ + 2 * LANES, sums[2], sums[3]);
  }
}
#else
INLINE void run_of_64(@POINTERS@, uint32_t first, const double *s, const int32_t *k, const Fixed &) {
@AHEAD@
  any_64(@NAMES@, first, s, k);
}
#endif
"""

ENTRY: Final = r"""
extern "C" void run(void **tensors, const double *numbers, const int32_t *keys, int64_t last, const int32_t *places,
                    int64_t count, int32_t threads) {
@CASTS@
  const uint32_t begin = (uint32_t)keys[last];
#pragma omp parallel num_threads(threads) if (count >= (1 << 15))
  {
    double s[@SCALARS@];  // copies that no store can change
    int32_t k[@KEYS@];
    for (int j = 0; j < @SCALARS@; ++j) s[j] = numbers[j];
    for (int j = 0; j < @KEYS@; ++j) k[j] = keys[j];
    if (places) {
      const Shared<None, None> shared(0, k);
#pragma omp for schedule(static)
      for (int64_t at = 0; at < count; at += LANES) {
        const int64_t size = count - at < LANES ? count - at : LANES;
        U i = {};
        std::memcpy(&i, places + at, size * sizeof(int32_t));
@LOADS_LANES@
        sixteen(@LOCAL@, i, 0, s, k, shared);
@STORES@
      }
    } else {
      const Fixed fixed(k);
      const int64_t head = begin % RUN, end = (head + count + RUN - 1) / RUN;
#pragma omp for schedule(static)
      for (int64_t block = 0; block < end; ++block) {
        const int64_t start = block * RUN - head, stop = start + RUN;
        const uint32_t first = begin + (uint32_t)start;
        if (start >= 0 && stop <= count) {
          const int64_t at = start;
          run_of_64(@MOVED@, first, s, k, fixed);
        } else {
          const int64_t at = start < 0 ? 0 : start, size = (stop < count ? stop : count) - at, gap = at - start;
@LOADS_RUN@
          run_of_64(@LOCAL@, first, s, k, fixed);
@STORES_RUN@
        }
      }
    }
  }
}
"""


__all__ = ["FLAGS", "TYPES", "source"]
