// Attention against a naive double-precision softmax, its gradients against central differences of that softmax.
#include "ops/attention.h"

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

struct Case {
  int64_t heads = 1, kv_heads = 1, d = 4;
  std::vector<int32_t> cu_q{0, 1}, cu_k{0, 1};
  bool causal = true;
  int64_t window = 0;
  std::vector<float> alibi;
  float softcap = 0;
  float dropout = 0;
  uint64_t key = 1;
  std::vector<int64_t> samples;
  std::vector<int32_t> positions;

  int64_t nq() const { return cu_q.back(); }
  int64_t nk() const { return cu_k.back(); }
  double scale() const { return 0.7 / std::sqrt(static_cast<double>(d)); }
};

// mask[(query row · H + head) · nk + key row]: what dropout multiplies with; empty without dropout.
Doubles reference(const Case& t, const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& mask = {}, Doubles* lse = nullptr) {
  const auto at = [](const Doubles& x, int64_t row, int64_t width, int64_t col) { return x[static_cast<size_t>(row * width + col)]; };
  Doubles out(q.size());
  if (lse) lse->assign(static_cast<size_t>(t.nq() * t.heads), -INFINITY);
  for (size_t s = 0; s + 1 < t.cu_q.size(); ++s) {
    const int64_t q0 = t.cu_q[s], k0 = t.cu_k[s], lq = t.cu_q[s + 1] - q0, lk = t.cu_k[s + 1] - k0;
    for (int64_t h = 0; h < t.heads; ++h) {
      const int64_t kv = h / (t.heads / t.kv_heads);
      for (int64_t i = 0; i < lq; ++i) {
        Doubles p(static_cast<size_t>(lk), 0.0);
        double sum = 0;
        for (int64_t j = 0; j < lk; ++j) {
          const int64_t distance = j - i - (lk - lq);
          if (t.causal && (distance > 0 || (t.window > 0 && distance <= -t.window))) continue;
          double score = 0;
          for (int64_t c = 0; c < t.d; ++c)
            score += at(q, q0 + i, t.heads * t.d, h * t.d + c) * at(k, k0 + j, t.kv_heads * t.d, kv * t.d + c);
          score *= t.scale();
          if (t.softcap > 0) score = t.softcap * std::tanh(score / t.softcap);
          if (!t.alibi.empty()) score += static_cast<double>(t.alibi[static_cast<size_t>(h)]) * static_cast<double>(distance);
          sum += p[static_cast<size_t>(j)] = std::exp(score);
        }
        if (sum == 0) continue;
        if (lse) (*lse)[static_cast<size_t>((q0 + i) * t.heads + h)] = std::log(sum);
        for (int64_t j = 0; j < lk; ++j) {
          double weight = p[static_cast<size_t>(j)] / sum;
          if (!mask.empty()) weight *= mask[static_cast<size_t>(((q0 + i) * t.heads + h) * t.nk() + k0 + j)];
          for (int64_t c = 0; c < t.d; ++c)
            out[static_cast<size_t>((q0 + i) * t.heads * t.d + h * t.d + c)] += weight * at(v, k0 + j, t.kv_heads * t.d, kv * t.d + c);
        }
      }
    }
  }
  return out;
}

class Attention : public EveryBackend {
 protected:
  struct Result {
    Doubles out, lse, dq, dk, dv;
  };

  ops::AttentionShape shape_of(const Case& t) const {
    ops::AttentionShape s;
    s.heads = t.heads, s.kv_heads = t.kv_heads, s.head_dim = t.d, s.scale = static_cast<float>(t.scale());
    s.causal = t.causal, s.window = t.window, s.alibi = t.alibi.empty() ? nullptr : t.alibi.data(), s.softcap = t.softcap;
    for (size_t i = 0; i + 1 < t.cu_q.size(); ++i) {
      s.max_q = std::max<int64_t>(s.max_q, t.cu_q[i + 1] - t.cu_q[i]);
      s.max_k = std::max<int64_t>(s.max_k, t.cu_k[i + 1] - t.cu_k[i]);
    }
    s.dropout = t.dropout, s.dropout_key = t.key;
    s.sample_ids = vector_of(t.samples), s.positions = vector_of(t.positions);
    return s;
  }

  // q‖k‖v lie in one tensor where the row counts allow it, and gradients overwrite them where `in_place`.
  Result run(const Case& t, const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& dout, DType dtype = DType::f32,
             bool in_place = false, float sign = 1) {
    const int64_t qc = t.heads * t.d, kc = t.kv_heads * t.d;
    Owned tq(dtype, t.nq(), qc, q, qc + 3), tk(dtype, t.nk(), kc, k, kc + 1), tv(dtype, t.nk(), kc, v), out(dtype, t.nq(), qc),
        lse(DType::f32, t.nq(), t.heads), tdo(dtype, t.nq(), qc, dout), dq(dtype, t.nq(), qc), dk(dtype, t.nk(), kc), dv(dtype, t.nk(), kc);
    ops::AttentionShape s = shape_of(t);
    s.scale *= sign;
    ops::attention_forward(context, {s, tq, tk, tv, vector_of(t.cu_q), vector_of(t.cu_k), out, lse, {}});
    ops::attention_backward(context, {s, tq, tk, tv, vector_of(t.cu_q), vector_of(t.cu_k), out, lse, tdo, in_place ? tq : dq,
                                      in_place ? tk : dk, in_place ? tv : dv, {}});
    EXPECT_EQ(arena.used(), 0u);
    if (in_place) return {out.doubles(), lse.doubles(), tq.doubles(), tk.doubles(), tv.doubles()};
    return {out.doubles(), lse.doubles(), dq.doubles(), dk.doubles(), dv.doubles()};
  }

  struct Input {
    Doubles q, k, v, dout;
  };
  static Input input(const Case& t, DType dtype = DType::f32) {
    const auto make = [&](int64_t rows, int64_t cols, uint64_t seed) { return rounded(random_doubles(rows * cols, seed), dtype); };
    return {make(t.nq(), t.heads * t.d, 1), make(t.nk(), t.kv_heads * t.d, 2), make(t.nk(), t.kv_heads * t.d, 3),
            make(t.nq(), t.heads * t.d, 4)};
  }

  void check(const Case& t, const Doubles& mask = {}, size_t samples = 24) {
    SCOPED_TRACE(::testing::Message() << "H" << t.heads << " KV" << t.kv_heads << " d" << t.d << " nq" << t.nq() << " nk" << t.nk()
                                      << " causal" << t.causal << " window" << t.window);
    const Input x = input(t);
    const Result r = run(t, x.q, x.k, x.v, x.dout);
    Doubles lse;
    EXPECT_LT(error_of(r.out, reference(t, x.q, x.k, x.v, mask, &lse)), 1e-5);
    for (size_t i = 0; i < lse.size(); ++i)
      if (std::isfinite(lse[i])) {
        EXPECT_NEAR(r.lse[i], lse[i], 1e-4);
      }
    expect_gradient(r.dq, x.q, [&](const Doubles& p) { return dot(x.dout, reference(t, p, x.k, x.v, mask)); }, 1e-4, samples);
    expect_gradient(r.dk, x.k, [&](const Doubles& p) { return dot(x.dout, reference(t, x.q, p, x.v, mask)); }, 1e-4, samples);
    expect_gradient(r.dv, x.v, [&](const Doubles& p) { return dot(x.dout, reference(t, x.q, x.k, p, mask)); }, 1e-4, samples);
    const Result in_place = run(t, x.q, x.k, x.v, x.dout, DType::f32, true);
    EXPECT_EQ(in_place.dq, r.dq);
    EXPECT_EQ(in_place.dk, r.dk);
    EXPECT_EQ(in_place.dv, r.dv);
    check_bf16(t);
  }

  // bf16 tensors may go to kernels of their own: the same case, beside fp32 from the same numbers.
  void check_bf16(const Case& t) {
    const Input x = input(t, DType::bf16);
    const Result wide = run(t, x.q, x.k, x.v, x.dout), narrow = run(t, x.q, x.k, x.v, x.dout, DType::bf16),
                 in_place = run(t, x.q, x.k, x.v, x.dout, DType::bf16, true);
    expect_close(narrow.out, wide.out, "out");
    expect_close(narrow.dq, wide.dq, "dq");
    expect_close(narrow.dk, wide.dk, "dk");
    expect_close(narrow.dv, wide.dv, "dv");
    for (size_t i = 0; i < wide.lse.size(); ++i)
      if (std::isfinite(wide.lse[i])) {
        EXPECT_NEAR(narrow.lse[i], wide.lse[i], 1e-4);
      } else {
        EXPECT_EQ(narrow.lse[i], wide.lse[i]);
      }
    EXPECT_EQ(in_place.dq, narrow.dq);
    EXPECT_EQ(in_place.dk, narrow.dk);
    EXPECT_EQ(in_place.dv, narrow.dv);
  }
  static void expect_close(const Doubles& a, const Doubles& b, const char* what) {
    ASSERT_EQ(a.size(), b.size());
    double scale = 0.5;  // gradients that cancel to nothing are as exact as their terms
    for (double x : b) scale = std::max(scale, std::abs(x));
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 0.012 * scale) << what << " element " << i;
  }
};

Case packed(std::vector<int32_t> cu, int64_t heads, int64_t kv_heads, int64_t d) {
  Case t;
  t.heads = heads, t.kv_heads = kv_heads, t.d = d, t.cu_q = cu, t.cu_k = std::move(cu);
  return t;
}

TEST_P(Attention, PackedCausalSequencesOfOddLengths) {
  check(packed({0, 1}, 1, 1, 1));
  check(packed({0, 1, 8, 41}, 2, 2, 7));
  check(packed({0, 7, 7, 40}, 2, 2, 8));  // with an empty sequence
}

TEST_P(Attention, LongerThanATile) { check(packed({0, 129, 194}, 1, 1, 4), {}, 6); }

TEST_P(Attention, GroupedQueriesReadTheirOwnKeyHead) {
  check(packed({0, 9, 20}, 4, 2, 4));
  check(packed({0, 9, 20}, 6, 1, 4));
  check(packed({0, 9, 20}, 6, 3, 4));
}

TEST_P(Attention, MoreKeysThanQueriesAlignBottomRight) {
  Case t = packed({0, 3, 4}, 2, 1, 4);
  t.cu_k = {0, 11, 18};
  check(t);
  t.window = 4;
  check(t);
}

TEST_P(Attention, QueriesThatSeeNothingGiveZerosAndNoGradient) {
  Case t = packed({0, 9, 80, 85}, 2, 1, 4);
  t.cu_k = {0, 4, 7, 7};  // the first five queries of nine see nothing; 68 of 71, beyond a tile; all of five
  check(t);
  const Input x = input(t);
  const Result r = run(t, x.q, x.k, x.v, x.dout);
  for (int64_t row : {0, 4, 9, 76, 80, 84})
    for (int64_t c = 0; c < 8; ++c) {
      EXPECT_EQ(r.out[static_cast<size_t>(row * 8 + c)], 0);
      EXPECT_EQ(r.dq[static_cast<size_t>(row * 8 + c)], 0);
    }
}

TEST_P(Attention, SlidingWindow) {
  Case t = packed({0, 5, 38}, 2, 2, 4);
  for (int64_t window : {1, 3, 100}) {
    t.window = window;
    check(t);
  }
}

TEST_P(Attention, SlidingWindowThatLeavesWholePanelsOfKeysBehind) {
  Case t = packed({0, 210}, 2, 1, 6);
  t.window = 70;
  check(t, {}, 2);
}

TEST_P(Attention, HeadsWiderThanAPanel) {
  Case t = packed({0, 75, 110}, 2, 1, 83);
  check(t, {}, 2);
  t.softcap = 2, t.alibi = {0.5f, 0.125f};
  check(t, {}, 2);
}

TEST_P(Attention, NegativeScale) {
  const Case t = packed({0, 20}, 1, 1, 8);
  const Input x = input(t, DType::bf16);
  Input turned = x;
  for (double& q : turned.q) q = -q;
  const Result expected = run(t, x.q, x.k, x.v, x.dout);
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Result r = run(t, turned.q, x.k, x.v, x.dout, dtype, false, -1);
    expect_close(r.out, expected.out, "out");
    expect_close(r.dk, expected.dk, "dk");
  }
}

TEST_P(Attention, WithoutCausalMaskAndAcrossStreams) {
  Case t = packed({0, 5, 12}, 2, 1, 4);
  t.cu_k = {0, 9, 10};
  t.causal = false;
  check(t);
}

TEST_P(Attention, AlibiSlopes) {
  Case t = packed({0, 7, 18}, 2, 2, 4);
  t.alibi = {0.5f, 0.125f};
  check(t);
  t.cu_k = {0, 9, 25};
  check(t);
}

TEST_P(Attention, SoftCapOfTheScores) {
  Case t = packed({0, 7, 18}, 4, 2, 4);
  t.softcap = 0.5f;
  check(t);
  t.window = 3, t.alibi = {0.5f, 0.25f, 0.125f, 0.0625f};
  check(t);
}

TEST_P(Attention, NoTokens) {
  const Result r = run(packed({0, 0}, 2, 1, 4), {}, {}, {}, {});
  EXPECT_TRUE(r.out.empty());
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  const Case t = packed({0, 7}, 1, 1, 4);
  Input x = input(t);
  for (double& q : x.q) q *= 300;
  const Result r = run(t, x.q, x.k, x.v, x.dout);
  for (const Doubles* g : {&r.out, &r.dq, &r.dk, &r.dv})
    for (double v : *g) EXPECT_TRUE(std::isfinite(v));
}

TEST_P(Attention, HalfPrecisionIsCloseToFp32) {
  const Case t = packed({0, 33, 66}, 4, 2, 16);
  for (DType half : {DType::bf16, DType::f16}) {
    const Input x = input(t, half);
    const Result a = run(t, x.q, x.k, x.v, x.dout), b = run(t, x.q, x.k, x.v, x.dout, half);
    EXPECT_LT(nmse(b.out, a.out), 5e-4);
    EXPECT_LT(nmse(b.dq, a.dq), 5e-4);
    EXPECT_LT(nmse(b.dk, a.dk), 5e-4);
    EXPECT_LT(nmse(b.dv, a.dv), 5e-4);
  }
}

TEST_P(Attention, TheSameBitsTwice) {
  const Case t = packed({0, 70, 200}, 4, 2, 16);
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Input x = input(t, dtype);
    const Result a = run(t, x.q, x.k, x.v, x.dout, dtype), b = run(t, x.q, x.k, x.v, x.dout, dtype);
    EXPECT_EQ(a.out, b.out);
    EXPECT_EQ(a.dq, b.dq);
    EXPECT_EQ(a.dk, b.dk);
    EXPECT_EQ(a.dv, b.dv);
  }
}

// Dropout ------------------------------------------------------------------------------------------------------------

class AttentionDropout : public Attention {
 protected:
  static Case dropped(std::vector<int32_t> cu, std::vector<int64_t> samples, int64_t heads = 2, int64_t kv_heads = 1) {
    Case t = packed(cu, heads, kv_heads, 16);
    t.dropout = 0.3f;
    for (size_t s = 0; s + 1 < cu.size(); ++s)
      for (int32_t i = cu[s]; i < cu[s + 1]; ++i) {
        t.samples.push_back(samples[s]);
        t.positions.push_back(i - cu[s]);
      }
    return t;
  }
  // What the op multiplies each probability with, seen from outside: equal scores and values that are unit vectors
  // (sequences of at most 16 keys).
  Doubles mask_of(const Case& t) {
    Doubles v(static_cast<size_t>(t.nk() * t.kv_heads * t.d));
    for (size_t s = 0; s + 1 < t.cu_k.size(); ++s)
      for (int32_t j = t.cu_k[s]; j < t.cu_k[s + 1]; ++j)
        for (int64_t h = 0; h < t.kv_heads; ++h) v[static_cast<size_t>((j * t.kv_heads + h) * t.d + j - t.cu_k[s])] = 1;
    const Doubles zero(static_cast<size_t>(t.nq() * t.heads * t.d)), zero_k(v.size());
    const Result r = run(t, zero, zero_k, v, zero);
    Doubles mask(static_cast<size_t>(t.nq() * t.heads * t.nk()));
    for (size_t s = 0; s + 1 < t.cu_q.size(); ++s)
      for (int32_t i = t.cu_q[s]; i < t.cu_q[s + 1]; ++i)
        for (int64_t h = 0; h < t.heads; ++h)
          for (int32_t j = t.cu_k[s]; j <= i; ++j)
            mask[static_cast<size_t>((i * t.heads + h) * t.nk() + j)] =
                r.out[static_cast<size_t>((i * t.heads + h) * t.d + j - t.cu_k[s])] * (i - t.cu_q[s] + 1);
    return mask;
  }
};

TEST_P(AttentionDropout, ForwardAndBackwardUseOneMask) {
  const Case t = dropped({0, 9, 25}, {3, 8}, 4, 2);
  const Doubles mask = mask_of(t);
  for (double m : mask) EXPECT_TRUE(m == 0 || std::abs(m - 1 / 0.7) < 1e-5) << m;
  check(t, mask);
}

TEST_P(AttentionDropout, KeepsAboutTheRightShare) {
  std::vector<int32_t> cu{0};
  std::vector<int64_t> samples;
  for (int i = 0; i < 60; ++i) {
    cu.push_back(cu.back() + 16);
    samples.push_back(i);
  }
  const Case t = dropped(cu, samples);
  double kept = 0;
  for (double m : mask_of(t)) kept += m != 0;
  EXPECT_NEAR(kept / (60 * 2 * 136), 0.7, 0.015);
}

TEST_P(AttentionDropout, TheMaskOfASampleDoesNotDependOnPacking) {
  const Case both = dropped({0, 5, 16}, {3, 8}), alone = dropped({0, 11}, {8});
  const Doubles a = mask_of(both), b = mask_of(alone);
  bool some_dropped = false;
  for (size_t i = 0; i < 11; ++i)
    for (size_t h = 0; h < 2; ++h)
      for (size_t j = 0; j <= i; ++j) {
        EXPECT_NEAR(a[((i + 5) * 2 + h) * 16 + j + 5], b[(i * 2 + h) * 11 + j], 1e-5);
        some_dropped |= b[(i * 2 + h) * 11 + j] == 0;
      }
  EXPECT_TRUE(some_dropped);
  Case other = alone;
  other.key = 2;
  EXPECT_NE(mask_of(other), b);
}

ATTUNE_EVERY_BACKEND(Attention);
ATTUNE_EVERY_BACKEND(AttentionDropout);

}  // namespace
}  // namespace attune
