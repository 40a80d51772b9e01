// Every instruction set's loops, held against torch in double. Sizes straddle every vector and tile edge.
#include "collegium/kernels/loops.h"

#include "check.h"
#include "collegium/kernels/isa.h"

namespace kernels = collegium::kernels;
using kernels::Bf16;
using kernels::Wide;
using namespace kernels_test;

namespace {

template <class S>
constexpr at::ScalarType type_of = at::kFloat;
template <>
constexpr at::ScalarType type_of<double> = at::kDouble;
template <>
constexpr at::ScalarType type_of<Bf16> = at::kBFloat16;

template <class S>
S* pointer(const Tensor& t) {
  return static_cast<S*>(t.data_ptr());
}

template <class S>
std::vector<const S*> row_starts(const Tensor& matrix) {
  std::vector<const S*> rows;
  for (int64_t r = 0; r < matrix.size(0); ++r) rows.push_back(pointer<S>(matrix) + r * matrix.size(1));
  return rows;
}

// Calls check(loops, random) for each supported instruction set and element type.
template <class Check>
void for_each_table(const Check& check) {
  for (const auto& isa : kernels::isas()) {
    if (!isa.supported()) continue;
    CAPTURE(isa.name);
    check(isa.loops->of_float);
    check(isa.loops->of_double);
    check(*isa.bf16);
  }
}

template <class S>
Tensor made(const Random& random, at::IntArrayRef sizes) {
  return random.normal(sizes, 1, type_of<S>);
}

template <class S>
Tensor wide_empty(at::IntArrayRef sizes) {
  return at::full(sizes, 77, type_of<Wide<S>>);
}

// Results rounded to bfloat16 differ by its rounding; those kept wide do not, for every instruction set: products of
// bfloat16s are exact in float, and the processor's dot product rounds as often as a sum of floats does.
template <class S>
double wide_tolerance() {
  return std::is_same_v<Wide<S>, double> ? 1e-13 : 3e-6;
}

constexpr int64_t sizes[][3] = {{1, 1, 1},      {1, 3, 5},     {2, 4, 16},   {3, 17, 33},   {4, 64, 64},
                                {5, 65, 31},    {7, 130, 48},  {13, 5, 300}, {16, 63, 257}, {25, 72, 600},
                                {200, 97, 41},  {1, 64, 512},  {2, 35, 96},  {70, 128, 20}, {6, 256, 300},
                                {70, 35, 1029}, {9, 18, 3100}, {8, 5, 2048}, {66, 3, 2500}};

}  // namespace

TEST_CASE("products equal torch's in double for every instruction set") {
  for_each_table([]<class S>(const kernels::Loops<S>& loop) {
    for (const auto& [m, n, k] : sizes) {
      CAPTURE(m);
      CAPTURE(n);
      CAPTURE(k);
      const Random random(static_cast<uint64_t>(m * 10000 + n * 100 + k));
      const auto a_mk = made<S>(random.at("a"), {m, k}), b_nk = made<S>(random.at("b"), {n, k});
      const auto b_kn = b_nk.t().contiguous(), a_km = a_mk.t().contiguous();
      const auto wanted = at::mm(a_mk.to(at::kDouble), b_nk.to(at::kDouble).t());
      const auto a_rows = row_starts<S>(a_mk), column_rows = row_starts<S>(a_km), b_rows = row_starts<S>(b_kn);
      const auto scratch = wide_empty<S>({std::max(loop.scratch(k), loop.linear_scratch(k))});
      const auto narrow = at::full({m, n}, 77, type_of<S>), wide = wide_empty<S>({m, n});
      const auto check_both = [&] {
        CHECK(difference(wide, wanted) < wide_tolerance<S>());
        CHECK(difference(narrow, wanted) < tolerance(type_of<S>));
      };
      loop.linear(a_rows.data(), m, pointer<S>(b_nk), k, n, k, pointer<S>(narrow), n, pointer<Wide<S>>(scratch));
      loop.linear_wide(a_rows.data(), m, pointer<S>(b_nk), k, n, k, pointer<Wide<S>>(wide), n,
                       pointer<Wide<S>>(scratch));
      check_both();
      narrow.fill_(77), wide.fill_(77);
      loop.times(a_rows.data(), m, pointer<S>(b_kn), n, n, k, pointer<S>(narrow), n, pointer<Wide<S>>(scratch));
      loop.times_wide(a_rows.data(), m, pointer<S>(b_kn), n, n, k, pointer<Wide<S>>(wide), n,
                      pointer<Wide<S>>(scratch));
      check_both();
      Tensor before;
      for (const bool past_cache : {false, true}) {
        narrow.fill_(77);
        loop.outer(column_rows.data(), 0, m, b_rows.data(), n, k, pointer<S>(narrow), n, past_cache,
                   pointer<Wide<S>>(scratch));
        CHECK(difference(narrow, wanted) < tolerance(type_of<S>));
        if (before.defined()) CHECK(same_bits(narrow, before));
        before = narrow.clone();
      }
      narrow.fill_(77);
      loop.outer(column_rows.data(), m / 2, m - m / 2, b_rows.data(), n, k, pointer<S>(narrow), n, /*past_cache=*/true,
                 pointer<Wide<S>>(scratch));
      CHECK(difference(narrow.slice(0, 0, m - m / 2), wanted.slice(0, m / 2)) < tolerance(type_of<S>));
    }
  });
}

TEST_CASE("a product's row does not depend on its company") {
  for_each_table([]<class S>(const kernels::Loops<S>& loop) {
    // Sums of 333 terms, and so long ones that some of the loops take them in parts where there are many rows.
    for (const int64_t k : {333, 2065}) {
      CAPTURE(k);
      const Random random(5);
      const int64_t m = 23, n = 70;
      const auto a_mk = made<S>(random.at("a"), {m, k}), b_nk = made<S>(random.at("b"), {n, k});
      const auto b_kn = b_nk.t().contiguous();
      const auto rows = row_starts<S>(a_mk);
      const auto scratch = wide_empty<S>({std::max(loop.scratch(k), loop.linear_scratch(k))});
      const auto run = [&](bool is_linear, int64_t from, int64_t to) {
        const auto out = wide_empty<S>({to - from, n});
        if (is_linear)
          loop.linear_wide(rows.data() + from, to - from, pointer<S>(b_nk), k, n, k, pointer<Wide<S>>(out), n,
                           pointer<Wide<S>>(scratch));
        else
          loop.times_wide(rows.data() + from, to - from, pointer<S>(b_kn), n, n, k, pointer<Wide<S>>(out), n,
                          pointer<Wide<S>>(scratch));
        return out;
      };
      for (const bool is_linear : {true, false}) {
        const auto all = run(is_linear, 0, m);
        for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 1}, {3, 5}, {9, 22}, {22, 23}})
          CHECK(same_bits(run(is_linear, from, to), all.slice(0, from, to)));
      }
    }
  });
}

TEST_CASE("activations and their slopes equal torch's in double") {
  for_each_table([]<class S>(const kernels::Loops<S>& loop) {
    for (const auto activation : {kernels::Activation::swiglu, kernels::Activation::gelu})
      for (const int64_t n : {1, 7, 16, 37, 200}) {
        const Random random(static_cast<uint64_t>(n));
        const bool is_gated = kernels::parts_of(activation) == 2;
        // The tails too: up to where exp() underflows.
        const auto first =
            at::cat({at::linspace(-100, 100, n / 2, at::kDouble), random.at("x").normal({n - n / 2}, 2, at::kDouble)})
                .to(type_of<S>);
        const auto second = made<S>(random.at("y"), {n});
        const auto grad = random.at("g").normal({n}, 1, type_of<Wide<S>>);
        const Wide<S> gate = 0.75;

        const auto x = first.to(at::kDouble).requires_grad_(), y = second.to(at::kDouble).requires_grad_();
        const auto wanted = is_gated ? at::silu(x) * y : at::gelu(x);
        (wanted * grad.to(at::kDouble)).sum().backward();

        const auto out = at::empty({n}, type_of<S>), grad_first = at::empty({n}, type_of<S>),
                   grad_second = at::empty({n}, type_of<S>), gated = at::empty({n}, type_of<S>);
        const auto& act = loop.of(activation);
        act.forward(pointer<S>(first), is_gated ? pointer<S>(second) : nullptr, n, pointer<S>(out));
        const double sum =
            act.backward(pointer<S>(first), is_gated ? pointer<S>(second) : nullptr, pointer<Wide<S>>(grad), gate, n,
                         pointer<S>(grad_first), pointer<S>(grad_second), pointer<S>(gated));
        const auto bound = tolerance(type_of<S>);
        CHECK(difference(out, wanted.detach()) < bound);
        CHECK(difference(gated, wanted.detach() * gate) < bound);
        CHECK(difference(grad_first, x.grad() * gate) < bound);
        if (is_gated) CHECK(difference(grad_second, y.grad() * gate) < bound);
        const auto terms = wanted.detach() * grad.to(at::kDouble);
        CHECK(std::abs(sum - value_of(terms.sum())) < bound * value_of(terms.abs().sum()) + 1e-12);
      }
  });
}

TEST_CASE("activations pass NaN on") {
  for_each_table([]<class S>(const kernels::Loops<S>& loop) {
    const auto x = at::full({3}, std::nan(""), type_of<S>), out = at::zeros({3}, type_of<S>);
    loop.swiglu.forward(pointer<S>(x), pointer<S>(x), 3, pointer<S>(out));
    CHECK(value_of(out.isnan().sum()) == 3);
    out.zero_();
    loop.gelu.forward(pointer<S>(x), nullptr, 3, pointer<S>(out));
    CHECK(value_of(out.isnan().sum()) == 3);
  });
}

TEST_CASE("row loops equal torch's") {
  for_each_table([]<class S>(const kernels::Loops<S>& loop) {
    for (const int64_t n : {0, 1, 8, 29, 64, 100}) {
      const Random random(static_cast<uint64_t>(n));
      const auto a = made<S>(random.at("a"), {n}), b = made<S>(random.at("b"), {n});
      const auto wide_a = a.to(type_of<Wide<S>>), wide_b = b.to(type_of<Wide<S>>);
      auto sum = wide_b.clone();
      loop.add_scaled(3, pointer<S>(a), n, pointer<Wide<S>>(sum));
      CHECK(difference(sum, wide_b + 3 * wide_a) < wide_tolerance<S>());
      sum = wide_b.clone();
      loop.add_scaled_wide(3, pointer<Wide<S>>(wide_a), n, pointer<Wide<S>>(sum));
      CHECK(difference(sum, wide_b + 3 * wide_a) < wide_tolerance<S>());
      const auto out = at::empty({n}, type_of<S>);
      loop.scale(0.3, pointer<S>(a), n, pointer<S>(out));
      CHECK(difference(out, a.to(at::kDouble) * 0.3) < tolerance(type_of<S>));
      const double inner = loop.inner(pointer<S>(a), pointer<S>(b), n);
      CHECK(std::abs(inner - value_of((a.to(at::kDouble) * b.to(at::kDouble)).sum())) < 1e-4);
      const auto all = at::stack({b, a, b, b, a});
      const auto rows = row_starts<S>(all);
      const auto products = wide_empty<S>({5});
      loop.inner_rows(rows.data(), 5, pointer<S>(a), n, pointer<Wide<S>>(products));
      CHECK(value_of(products[0]) == inner);
      CHECK(value_of(products[3]) == inner);
      CHECK(value_of(products[1]) == static_cast<double>(loop.inner(pointer<S>(a), pointer<S>(a), n)));
      const auto wide = at::empty({n}, type_of<Wide<S>>);
      loop.widen(pointer<S>(a), n, pointer<Wide<S>>(wide));
      CHECK(same_bits(wide, wide_a));
      const auto precise = random.at("c").normal({n}, 1, type_of<Wide<S>>);
      loop.narrow(pointer<Wide<S>>(precise), n, pointer<S>(out));
      CHECK(same_bits(out, precise.to(type_of<S>)));
    }
  });
}
