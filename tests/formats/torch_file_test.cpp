// pytorch_model.bin: read like safetensors, and nothing in it is ever executed (fixtures written by
// tools/reference/torch_fixtures.py).
#include "formats/torch_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "formats/model_directory.h"
#include "formats/safetensors.h"
#include "util/error.h"

namespace attune {
namespace {

using formats::TorchFile;

fs::path torch(const std::string& name) { return fs::path(ATTUNE_FIXTURES) / "torch" / name; }

// What opening a file says; empty where it is accepted.
std::string refusal(const fs::path& file) {
  try {
    const TorchFile opened(file);
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(file.filename().string()), std::string::npos) << e.what();
    return e.what();
  }
  return "";
}

class Torch : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("attune_torch_" + std::to_string(::getpid()) + "_" +
                                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  fs::path put(const std::string& bytes) const {
    std::ofstream(directory_ / "x.bin", std::ios::binary | std::ios::trunc) << bytes;
    return directory_ / "x.bin";
  }
  fs::path directory_;
};

TEST_F(Torch, ReadsEveryDtypeAsTorchAndSafetensorsDo) {
  const formats::SafetensorsFile expected(torch("golden.safetensors"));
  for (const char* name : {"golden.bin", "protocol4.bin"}) {
    const TorchFile file(torch(name));
    EXPECT_EQ(file.tensors().size(), expected.tensors().size());
    for (const auto& want : expected.tensors()) {
      const auto* got = file.find(want.name);
      ASSERT_NE(got, nullptr) << want.name;
      EXPECT_EQ(got->dtype, want.dtype) << want.name;
      EXPECT_EQ(got->shape, want.shape) << want.name;
      ASSERT_EQ(got->bytes, want.bytes) << want.name;
      std::string a(got->bytes, 1), b(want.bytes, 2);
      file.read_raw(*got, a.data());
      expected.read_raw(want, b.data());
      EXPECT_EQ(a, b) << want.name;
      if (want.dtype == "I64") continue;
      std::vector<float> x(static_cast<size_t>(want.count())), y(x.size());
      file.read(*got, DType::f32, x.data());
      expected.read(want, DType::f32, y.data());
      EXPECT_EQ(x, y) << want.name;
    }
  }
}

TEST_F(Torch, EveryHostileFileIsRefusedByName) {
  int refused = 0;
  for (const auto& entry : fs::directory_iterator(torch(""))) {
    if (!entry.path().filename().string().starts_with("bad_")) continue;
    EXPECT_NE(refusal(entry.path()), "") << entry.path();
    ++refused;
  }
  EXPECT_GE(refused, 30);
  for (const char* name : {"system", "eval", "getattr"}) {
    const std::string message = refusal(torch(fmt::format("bad_{}{}.bin", std::string(name) == "system" ? "os_" : "", name)));
    EXPECT_NE(message.find(std::string(".") + name + ", which"), std::string::npos) << message;
  }
  EXPECT_NE(refusal(torch("bad_old_format.bin")).find("1.6"), std::string::npos);
  EXPECT_NE(refusal(torch("bad_transposed.bin")).find("contiguous"), std::string::npos);
  EXPECT_NE(refusal(torch("bad_storage_outside.bin")).find("../../secret"), std::string::npos);
  EXPECT_NE(refusal(torch("bad_compressed.bin")).find("compressed"), std::string::npos);
  EXPECT_FALSE(fs::exists("/tmp/attune_was_here"));
}

TEST_F(Torch, EveryTruncationIsAnError) {
  const std::string golden = read_file(torch("golden.bin"));
  const fs::path path = put(golden);
  for (size_t n = golden.size(); n-- > 0;) {
    fs::resize_file(path, n);
    EXPECT_NE(refusal(path), "") << "cut at " << n;
  }
}

TEST_F(Torch, EveryBitFlipIsAnErrorOrAFileWhoseTensorsLieInside) {
  const std::string golden = read_file(torch("golden.bin"));
  const fs::path path = put(golden);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);  // flipped in place
  const auto write = [&](size_t byte, int mask) {
    file.seekp(static_cast<std::streamoff>(byte)).put(static_cast<char>(golden[byte] ^ mask)).flush();
  };
  int refused = 0;
  for (size_t byte = 0; byte < golden.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      write(byte, 1 << bit);
      try {
        const TorchFile opened(path);  // a flip in a number of a tensor, or in a name, may well be a valid file
        for (const auto& t : opened.tensors()) EXPECT_LE(t.offset + t.bytes, golden.size());
      } catch (const Error&) {
        ++refused;
      }
    }
    write(byte, 0);
  }
  EXPECT_GT(refused, 3000);
}

// Sets the four bytes at `offset` from the name of the last entry of the directory that ends so.
void patch(std::string& bytes, const std::string& name, int64_t offset, uint32_t value) {
  const size_t at = bytes.rfind(name);
  ASSERT_NE(at, std::string::npos);
  const size_t begin = bytes.rfind("PK\1\2", at);  // the record of the directory
  for (size_t i = 0; i < 4; ++i) bytes[begin + static_cast<size_t>(offset) + i] = static_cast<char>(value >> (8 * i));
}

TEST_F(Torch, EntriesOfTheArchiveStayInsideAndApart) {
  const std::string golden = read_file(torch("bad_storage_missing.bin"));  // a plain archive of two entries
  std::string large = golden, shifted = golden;
  for (int64_t field : {20, 24}) patch(large, "data/0", field, 1'000'000);
  EXPECT_NE(refusal(put(large)).find("beyond the archive"), std::string::npos);
  // The pickle's content reaches into the entry behind it.
  for (int64_t field : {20, 24}) patch(shifted, "data.pkl", field, static_cast<uint32_t>(golden.find("PK\3\4", 4)));
  EXPECT_NE(refusal(put(shifted)).find("overlap"), std::string::npos) << refusal(put(shifted));
}

TEST_F(Torch, ADirectoryPrefersSafetensorsAndReadsShards) {
  formats::ModelDirectory sharded(torch("sharded"));
  const formats::SafetensorsFile expected(fs::path(ATTUNE_FIXTURES) / "families/mistral/model.safetensors");
  EXPECT_TRUE(sharded.has_weights());
  EXPECT_EQ(sharded.tensors().size(), expected.tensors().size());
  for (const auto& [name, entry] : sharded.tensors()) {
    const auto* want = expected.find(name);
    ASSERT_NE(want, nullptr) << name;
    std::vector<float> a(static_cast<size_t>(want->count())), b(a.size());
    entry.file->read(*entry.info, DType::f32, a.data());
    expected.read(*want, DType::f32, b.data());
    EXPECT_EQ(a, b) << name;
  }
  std::ofstream(directory_ / "config.json") << "{}";
  fs::copy_file(torch("golden.bin"), directory_ / "pytorch_model.bin");
  EXPECT_EQ(formats::ModelDirectory(directory_).tensors().begin()->second.file->path().filename(), "pytorch_model.bin");
  fs::copy_file(torch("golden.safetensors"), directory_ / "model.safetensors");
  EXPECT_EQ(formats::ModelDirectory(directory_).tensors().begin()->second.file->path().filename(), "model.safetensors");
}

TEST_F(Torch, AnIndexCannotLeadOutside) {
  fs::create_directories(directory_ / "model");
  fs::copy_file(torch("golden.bin"), directory_ / "outside.bin");
  std::ofstream(directory_ / "model/config.json") << "{}";
  fs::create_symlink("../outside.bin", directory_ / "model/link.bin");
  for (const std::string& name : {std::string("../outside.bin"), (directory_ / "outside.bin").string(), std::string("link.bin")}) {
    std::ofstream(directory_ / "model/pytorch_model.bin.index.json", std::ios::trunc) << "{\"weight_map\":{\"bf16\":\"" << name << "\"}}";
    try {
      formats::ModelDirectory(directory_ / "model").tensors();
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("outside of"), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace attune
