// Quantised matrices: bitsandbytes' codes, scales and numbers on random and adversarial blocks (tools/reference/quantization_fixtures.py).
#include "ops/quantize.h"

#include "formats/safetensors.h"
#include "op_test.h"
#include "ops/dequantize.h"
#include "util/error.h"
#include "util/files.h"

namespace attune {
namespace {

using namespace test;

const std::vector<std::string> kCases{"random", "odd", "uniform", "hard", "between_nf4", "between_fp4"};
const std::vector<Quantization> kWays{{QuantType::nf4, false}, {QuantType::fp4, false}, {QuantType::nf4, true}, {QuantType::fp4, true}, {QuantType::int8, false}};

const formats::SafetensorsFile& fixture() {
  static const formats::SafetensorsFile file(fs::path(ATTUNE_FIXTURES) / "quantization/blocks.safetensors");
  return file;
}
const formats::TensorInfo& info_of(const std::string& name) {
  const auto* info = fixture().find(name);
  if (!info) throw std::runtime_error("fixture has no " + name);
  return *info;
}
std::vector<float> floats_of(const std::string& name) {
  std::vector<float> out(static_cast<size_t>(info_of(name).count()));
  fixture().read(info_of(name), DType::f32, out.data());
  return out;
}
std::vector<uint8_t> bytes_of(const std::string& name) {
  std::vector<uint8_t> out(info_of(name).bytes);
  fixture().read_raw(info_of(name), 0, out.size(), out.data());
  return out;
}

// A quantised copy of rows of numbers, with its memory.
struct Packed {
  std::vector<std::byte> memory;
  QuantizedMatrix matrix;
  bool finite = true;
  Packed(const std::vector<float>& values, int64_t rows, int64_t cols, const Quantization& how, int64_t at_once = 0) {
    memory.resize(QuantizedMatrix::bytes(how, rows, cols) + 64);
    void* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    matrix = QuantizedMatrix::over(aligned, how, rows, cols);
    ops::Quantizer quantizer(matrix);
    const int64_t step = at_once ? at_once : rows;
    for (int64_t r = 0; r < rows; r += step) finite = quantizer.add(values.data() + r * cols, std::min(step, rows - r)) && finite;
    quantizer.finish();
  }
};
Packed packed(const std::string& name, const Quantization& how) {
  const auto& shape = info_of(name + ".values").shape;
  return {floats_of(name + ".values"), shape[0], shape[1], how};
}
std::string prefix(const std::string& name, const Quantization& how) { return name + "." + text_of({how.type, false}) + "."; }

// Codes one by one; fp4's two zeros are one number.
std::vector<int> codes_of(const uint8_t* bytes, int64_t count, QuantType type) {
  std::vector<int> out;
  for (int64_t i = 0; i < count; ++i) {
    const int code = type == QuantType::int8 ? static_cast<int8_t>(bytes[i]) : i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
    out.push_back(type == QuantType::fp4 && code == 8 ? 0 : code);
  }
  return out;
}

TEST(Quantize, CodesAndScalesAreThoseOfBitsandbytes) {
  for (const std::string& name : kCases)
    for (const Quantization& how : kWays) {
      if (how.double_quantization) continue;
      const Packed p = packed(name, how);
      const auto absmax = floats_of(prefix(name, how) + "absmax");
      ASSERT_EQ(static_cast<int64_t>(absmax.size()), p.matrix.scales()) << name;
      // A last block that is short is never below 1e-38 there.
      for (size_t i = 0; i < absmax.size(); ++i) EXPECT_NEAR(p.matrix.absmax[i], absmax[i], 1.1e-38) << name << " " << text_of(how) << " scale " << i;
      const auto codes = codes_of(bytes_of(prefix(name, how) + "codes").data(), p.matrix.count(), how.type);
      EXPECT_EQ(codes_of(p.matrix.codes, p.matrix.count(), how.type), codes) << name << " " << text_of(how);
    }
}

TEST(Quantize, ScalesOfScalesAreThoseOfBitsandbytes) {
  const auto expect = [](const QuantizedMatrix& m, const std::string& at) {
    const float mean = floats_of(at + "mean")[0];
    EXPECT_NEAR(m.mean(), mean, 1e-6 * std::abs(mean)) << at;
    const auto absmax = floats_of(at + "absmax");
    ASSERT_EQ(static_cast<int64_t>(absmax.size()), m.scale_blocks()) << at;
    for (size_t i = 0; i < absmax.size(); ++i) EXPECT_NEAR(m.absmax[i], absmax[i], 1e-6 * std::abs(mean)) << at;
    const auto codes = bytes_of(at + "codes");
    for (size_t i = 0; i < codes.size(); ++i) EXPECT_EQ(m.absmax_codes[i], codes[i]) << at << " scale " << i;
  };
  expect(packed("many_scales", {QuantType::nf4, true}).matrix, "many_scales.");
  for (const std::string& name : kCases) {
    if (name == "odd" || name == "hard") continue;  // there means cancel: see the numbers below
    for (QuantType type : {QuantType::nf4, QuantType::fp4}) expect(packed(name, {type, true}).matrix, prefix(name, {type, true}) + "double.");
  }
}

TEST(Quantize, RowsInPiecesMakeTheSameMatrix) {
  const int64_t rows = 200, cols = 37;
  std::vector<float> values;
  for (double x : random_doubles(rows * cols, 3)) values.push_back(static_cast<float>(x));
  for (const Quantization& how : kWays) {
    const Packed whole(values, rows, cols, how), pieces(values, rows, cols, how, ops::Quantizer::kRows);
    EXPECT_EQ(std::memcmp(whole.matrix.codes, pieces.matrix.codes, whole.matrix.bytes()), 0) << text_of(how);
  }
}

TEST(Quantize, ANumberThatIsNotFiniteIsSeen) {
  for (const Quantization& how : kWays)
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> values(130, 1.0f);
      values[77] = bad;
      EXPECT_FALSE(Packed(values, 2, 65, how).finite) << text_of(how);
    }
}

TEST(Quantize, NamesGoBothWays) {
  for (const Quantization& how : kWays) EXPECT_EQ(parse_quantization(text_of(how), "--quantization"), how);
  EXPECT_FALSE(parse_quantization("none", "--quantization").on());
  for (const char* wrong : {"nf5", "int8-double", "none-double", ""}) EXPECT_THROW(parse_quantization(wrong, "--quantization"), Error) << wrong;
}

class DequantizeTest : public EveryBackend {};

TEST_P(DequantizeTest, NumbersAreThoseOfBitsandbytes) {
  for (const std::string& name : kCases)
    for (const Quantization& how : kWays) {
      const Packed p = packed(name, how);
      const auto expected = floats_of(prefix(name, how) + (how.double_quantization ? "double.dequantized" : "dequantized"));
      float most = 0;
      for (float x : expected) most = std::max(most, std::abs(x));
      for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        if (dtype == DType::f16 && most > 6e4f) continue;
        Owned out(dtype, p.matrix.rows, p.matrix.cols);
        ops::dequantize(context, {p.matrix, 0, 0, out});
        const auto got = out.doubles();
        // Scales of scales are sums, which may be rounded once or twice: to the last bit of fp32, and of 16 bits in between.
        const double last = how.double_quantization ? most * (dtype == DType::f32 ? 3e-7 : dtype == DType::bf16 ? 0.004 : 0.0005) : 0;
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_NEAR(got[i], rounded(expected[i], dtype), last + 2e-38) << name << " " << text_of(how) << " " << name_of(dtype) << " element " << i;
      }
    }
}

TEST_P(DequantizeTest, ARectangleIsAPartOfTheWhole) {
  const int64_t rows = 9, cols = 203;
  std::vector<float> values;
  for (double x : random_doubles(rows * cols, 5)) values.push_back(static_cast<float>(x));
  for (const Quantization& how : kWays) {
    const Packed p(values, rows, cols, how);
    Owned whole(DType::f32, rows, cols);
    ops::dequantize(context, {p.matrix, 0, 0, whole});
    for (const auto& [row, column, n, m] : {std::array<int64_t, 4>{0, 0, 1, 1}, {2, 63, 3, 66}, {1, 64, 8, 139}, {8, 201, 1, 2}, {3, 17, 5, 129}, {0, 1, 9, 202}}) {
      Owned part(DType::f32, n, m), narrow(DType::bf16, n, m, m + 5);
      ops::dequantize(context, {p.matrix, row, column, part});
      ops::dequantize(context, {p.matrix, row, column, narrow});
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < m; ++j) {
          const float expected = whole.tensor.row<float>(row + i)[column + j];
          ASSERT_EQ(part.tensor.row<float>(i)[j], expected) << text_of(how) << " " << row + i << ", " << column + j;
          ASSERT_EQ(to_float(narrow.tensor.row<BFloat16>(i)[j]), to_float(to_bf16(expected))) << text_of(how);
        }
    }
  }
}

// Against the numbers that dequantize gives in the same type, in double.
TEST_P(DequantizeTest, FewRowsMultiplyByTheNumbersThatAreNeverWritten) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 64}, {7, 128}, {300, 192}}) {
    std::vector<float> values;
    for (double v : random_doubles(n * k, 11)) values.push_back(static_cast<float>(v));
    for (const Quantization& how : kWays) {
      if (!how.four_bits()) continue;
      const Packed p(values, n, k, how);
      for (DType dtype : {DType::f32, DType::bf16})
        for (int64_t m : {int64_t{1}, int64_t{2}, int64_t{5}, ops::kMostProductRows}) {
          Owned w(dtype, n, k), x(dtype, m, k, random_doubles(m * k, 12), k + 3), y(dtype, m, n, n + 5), wide(DType::f32, m, n);
          ops::dequantize(context, {p.matrix, 0, 0, w});
          ops::quantized_product(context, {x, y, p.matrix});
          ops::quantized_product(context, {x, wide, p.matrix});
          const auto weights = w.doubles(), rows = x.doubles(), got = y.doubles(), exact = wide.doubles();
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
              double sum = 0, size = 0;
              for (int64_t l = 0; l < k; ++l) {
                const double term = rows[static_cast<size_t>(i * k + l)] * weights[static_cast<size_t>(j * k + l)];
                sum += term, size += std::abs(term);
              }
              ASSERT_NEAR(exact[static_cast<size_t>(i * n + j)], sum, 1e-6 * size) << text_of(how) << " " << name_of(dtype) << " " << m << ", " << j;
              ASSERT_NEAR(got[static_cast<size_t>(i * n + j)], sum, 1e-6 * size + (dtype == DType::bf16 ? 0.004 * std::abs(sum) : 0));
            }
        }
    }
  }
}

ATTUNE_EVERY_BACKEND(DequantizeTest);

}  // namespace
}  // namespace attune
