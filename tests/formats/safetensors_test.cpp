// safetensors files are untrusted: every malformed one is an error that names the file, never a crash.
#include "formats/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "util/error.h"

namespace attune {
namespace {

using formats::SafetensorsFile;
using formats::TensorSource;

fs::path fixture_directory() { return fs::path(ATTUNE_FIXTURES) / "safetensors"; }

class Safetensors : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("attune_safetensors_" + std::to_string(::getpid()) + "_" +
                                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path path(const std::string& name = "x.safetensors") const { return directory_ / name; }
  fs::path put(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << bytes;
    return path();
  }
  static std::string file(const std::string& header, const std::string& data) {
    const uint64_t size = header.size();
    return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
  }
  static std::string slurp(const fs::path& p) {
    std::ifstream in(p, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void expect_error(const std::string& bytes, const std::string& what) const {
    put(bytes);
    try {
      const SafetensorsFile opened(path());
      FAIL() << "accepted: " << what;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("x.safetensors"), std::string::npos) << what << ": " << e.what();
    } catch (const std::exception& e) {
      FAIL() << what << " escaped as " << e.what();
    }
  }

 private:
  fs::path directory_;
};

const char* const kHeader =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})";
std::string data(size_t n) {
  std::string s;
  for (size_t i = 0; i < n; ++i) s += static_cast<char>(i * 7);
  return s;
}

TEST_F(Safetensors, ReadsTheGoldenFile) {
  put(file(kHeader, data(22)));
  const SafetensorsFile f(path());
  ASSERT_EQ(f.tensors().size(), 2u);
  EXPECT_EQ(f.metadata().at("format"), "pt");
  EXPECT_EQ(f.find("b")->shape, (std::vector<int64_t>{3}));
  EXPECT_EQ(f.find("b")->bytes, 6u);
  EXPECT_EQ(f.find("c"), nullptr);
  std::string raw(6, 0);
  f.read_raw(*f.find("b"), raw.data());
  EXPECT_EQ(raw, data(22).substr(16));
}

TEST_F(Safetensors, EveryTruncationIsAnError) {
  const std::string golden = file(kHeader, data(22));
  for (size_t n = 0; n < golden.size(); ++n) expect_error(golden.substr(0, n), "cut at " + std::to_string(n));
}

TEST_F(Safetensors, EveryBitFlipOfTheHeaderIsReadAsItSaysOrRefused) {
  const std::string golden = file(kHeader, data(22));
  int refused = 0;
  for (size_t byte = 0; byte < golden.size() - 22; ++byte)
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = golden;
      bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << bit));
      put(bytes);
      try {
        const SafetensorsFile f(path());  // a flip in a name or in the metadata may well be a valid file
        for (const auto& t : f.tensors()) EXPECT_LE(t.offset + t.bytes, bytes.size());
      } catch (const Error&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, 700);
}

TEST_F(Safetensors, RefusesMalformedFiles) {
  const auto tensor = [](const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{" + tensor("a", dtype, shape, offsets) + "}";
  };
  const auto two = [&](const std::string& a, const std::string& b) {
    return "{" + tensor("a", "\"U8\"", "[4]", a) + "," + tensor("b", "\"U8\"", "[4]", b) + "}";
  };
  const std::string f32 = "\"F32\"";
  struct Bad {
    const char* what;
    std::string header;
    size_t bytes;
  };
  const std::vector<Bad> cases{
      {"overlap", two("[0,4]", "[2,6]"), 6},
      {"overlap whose sizes add up to the file's", two("[0,4]", "[2,6]"), 8},
      {"the same bytes twice", two("[0,4]", "[0,4]"), 4},
      {"hole", two("[0,4]", "[8,12]"), 12},
      {"hole at the start", one("\"U8\"", "[4]", "[4,8]"), 8},
      {"trailing bytes", one("\"U8\"", "[4]", "[0,4]"), 5},
      {"data cut off", one("\"U8\"", "[4]", "[0,4]"), 3},
      {"no data at all", one("\"U8\"", "[4]", "[0,4]"), 0},
      {"end before begin", one("\"U8\"", "[4]", "[4,0]"), 4},
      {"offsets too small for the shape", one(f32, "[2]", "[0,4]"), 4},
      {"offsets too large for the shape", one(f32, "[1]", "[0,8]"), 8},
      {"shape overflow 2^62·4", one(f32, "[4611686018427387904,4]", "[0,16]"), 16},
      {"shape overflow to zero", one(f32, "[4294967296,4294967296]", "[0,0]"), 0},
      {"shape beyond int64", one(f32, "[18446744073709551615]", "[0,4]"), 4},
      {"shape beyond uint64", one(f32, "[28446744073709551615]", "[0,4]"), 4},
      {"overflow hidden by a later zero", one(f32, "[4611686018427387904,4611686018427387904,0]", "[0,0]"), 0},
      {"many factors", one(f32, "[65536,65536,65536,65536,65536]", "[0,4]"), 4},
      {"negative size", one(f32, "[-1]", "[0,4]"), 4},
      {"two negative sizes", one(f32, "[-1,-1]", "[0,4]"), 4},
      {"fractional size", one(f32, "[1.0]", "[0,4]"), 4},
      {"size as text", one(f32, "[\"1\"]", "[0,4]"), 4},
      {"size null", one(f32, "[null]", "[0,4]"), 4},
      {"shape not a list", one(f32, "1", "[0,4]"), 4},
      {"dtype not text", one("32", "[1]", "[0,4]"), 4},
      {"unknown dtype", one("\"F33\"", "[1]", "[0,4]"), 4},
      {"lower-case dtype", one("\"f32\"", "[1]", "[0,4]"), 4},
      {"one offset", one(f32, "[1]", "[0]"), 4},
      {"three offsets", one(f32, "[1]", "[0,4,8]"), 4},
      {"negative offset", one(f32, "[1]", "[-4,0]"), 4},
      {"offset beyond 2^62", one(f32, "[1]", "[9223372036854775804,9223372036854775808]"), 4},
      {"offsets that wrap", one(f32, "[1]", "[18446744073709551612,18446744073709551616]"), 4},
      {"offset as text", one(f32, "[1]", "[\"0\",4]"), 4},
      {"offsets not a list", one(f32, "[1]", "4"), 4},
      {"half a byte", one("\"F4\"", "[3]", "[0,1]"), 1},
      {"duplicate tensor", "{" + tensor("a", f32, "[1]", "[0,4]") + "," + tensor("a", f32, "[1]", "[4,8]") + "}", 8},
      {"duplicate field", R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4},
      {"missing dtype", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4},
      {"missing shape", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4},
      {"missing offsets", R"({"a":{"dtype":"F32","shape":[1]}})", 4},
      {"unknown field", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4},
      {"tensor is a list", R"({"a":[1,2]})", 4},
      {"tensor is null", R"({"a":null})", 0},
      {"header is a list", "[]", 0},
      {"header is a number", "1", 0},
      {"header begins with a space", " {}", 0},
      {"header is not closed", "{\"a\":", 0},
      {"text behind the object", "{} x", 0},
      {"a NUL behind the object", std::string("{}\0", 3), 0},
      {"not UTF-8", "{\"\xff\xfe\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
      {"metadata is a list", R"({"__metadata__":[]})", 0},
      {"metadata holds a number", R"({"__metadata__":{"a":1}})", 0},
      {"metadata is nested", R"({"__metadata__":{"a":{}}})", 0},
      {"deep nesting", "{\"a\":" + std::string(100000, '['), 0},
      {"deep closed nesting", "{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}", 0},
  };
  for (const Bad& bad : cases) expect_error(file(bad.header, data(bad.bytes)), bad.what);
  EXPECT_GE(cases.size(), 40u);
}

TEST_F(Safetensors, HugeHeaderClaimsAllocateNothing) {
  for (uint64_t claim : {uint64_t{100'000'001}, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{7}, uint64_t{99'999'999}}) {
    std::string bytes = file("{}", "");
    std::memcpy(bytes.data(), &claim, 8);
    expect_error(bytes, "claim " + std::to_string(claim));
  }
  expect_error(std::string(8, '\0'), "an empty header");
}

TEST_F(Safetensors, AcceptsTheOddButValid) {
  put(file(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"I32","shape":[2,0],"data_offsets":[4,4]},"e":{"dtype":"F4","shape":[4],"data_offsets":[4,6]}}   )",
           data(6)));
  const SafetensorsFile f(path());
  EXPECT_EQ(f.find("s")->count(), 1);
  EXPECT_EQ(f.find("z")->count(), 0);
  put(file("{}", ""));
  EXPECT_TRUE(SafetensorsFile(path()).tensors().empty());
  // Tensors may stand in the header in any order.
  put(file(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", data(2)));
  EXPECT_EQ(SafetensorsFile(path()).tensors()[0].name, "a");
}

TEST_F(Safetensors, TheSharedCasesOfOtherReaders) {
  int ok = 0, bad = 0;
  for (const auto& entry : fs::directory_iterator(fixture_directory())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("ok_")) {
      EXPECT_NO_THROW(SafetensorsFile(entry.path())) << name;
      ++ok;
    } else if (name.starts_with("bad_")) {
      EXPECT_THROW(SafetensorsFile(entry.path()), Error) << name;
      ++bad;
    }
  }
  EXPECT_EQ(ok, 3);
  EXPECT_EQ(bad, 5);
}

TEST_F(Safetensors, WriteReadWriteIsByteIdentical) {
  std::vector<float> a(1000), b(33);
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i) * 0.37f - 5;
  for (size_t i = 0; i < b.size(); ++i) b[i] = 1.0f / static_cast<float>(i + 1);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    formats::write_safetensors(path("1"), {{"b", {33}, b.data(), DType::f32, dtype}, {"a.weight", {10, 100}, a.data(), DType::f32, dtype}});
    const SafetensorsFile first(path("1"));
    EXPECT_EQ(first.metadata().at("format"), "pt");
    std::vector<std::vector<char>> raw;
    std::vector<TensorSource> sources;
    for (const auto& t : first.tensors()) {
      raw.emplace_back(t.bytes);
      first.read_raw(t, raw.back().data());
      sources.push_back({t.name, t.shape, raw.back().data(), dtype, dtype});
    }
    formats::write_safetensors(path("2"), sources);
    EXPECT_EQ(slurp(path("1")), slurp(path("2")));

    // And reading widens exactly.
    std::vector<float> back(33);
    first.read(*first.find("b"), DType::f32, back.data());
    std::vector<char> narrow(33 * size_of(dtype));
    convert(b.data(), DType::f32, narrow.data(), dtype, 33);
    std::vector<float> expected(33);
    convert(narrow.data(), dtype, expected.data(), DType::f32, 33);
    EXPECT_EQ(back, expected);
  }
}

TEST_F(Safetensors, ReadsF64AndRefusesIntegersAsWeights) {
  const double values[2] = {0.1, -3e10};
  put(file(R"({"d":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"i":{"dtype":"I32","shape":[1],"data_offsets":[16,20]}})",
           std::string(reinterpret_cast<const char*>(values), 16) + "abcd"));
  const SafetensorsFile f(path());
  float out[2];
  f.read(*f.find("d"), DType::f32, out);
  EXPECT_EQ(out[0], 0.1f);
  EXPECT_EQ(out[1], -3e10f);
  EXPECT_THROW(f.read(*f.find("i"), DType::f32, out), Error);
}

}  // namespace
}  // namespace attune
