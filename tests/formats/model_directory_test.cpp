// Model directories: shards, indexes that lie, and paths that try to leave.
#include "formats/model_directory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "util/error.h"

namespace attune {
namespace {

using formats::ModelDirectory;

class Directory : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("attune_directory_" + std::to_string(::getpid()) + "_" +
                                         ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(model());
    write("config.json", R"({"model_type":"llama"})");
  }
  void TearDown() override { fs::remove_all(root_); }

  fs::path model() const { return root_ / "model"; }
  void write(const fs::path& name, const std::string& text) const { std::ofstream(model() / name, std::ios::binary) << text; }
  void tensors(const fs::path& where, const std::vector<std::string>& names) const {
    static const float values[4] = {1, 2, 3, 4};
    std::vector<formats::TensorSource> sources;
    for (const auto& n : names) sources.push_back({n, {2, 2}, values, DType::f32, DType::f32});
    formats::write_safetensors(where, sources);
  }
  void index(const std::string& weight_map) const { write("model.safetensors.index.json", R"({"weight_map":)" + weight_map + "}"); }
  // The message of the error that opening the weights gives.
  std::string refusal() const {
    try {
      ModelDirectory(model()).tensors();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  fs::path root_;
};

TEST_F(Directory, SavesShardsWithAnIndexAndReadsThemBack) {
  std::vector<std::vector<float>> values;
  std::vector<formats::TensorSource> sources;
  for (int i = 0; i < 7; ++i) values.emplace_back(64, static_cast<float>(i));
  for (int i = 0; i < 7; ++i)
    sources.push_back({"t" + std::to_string(i), {8, 8}, values[static_cast<size_t>(i)].data(), DType::f32, DType::f32});
  for (uint64_t limit : {uint64_t{1} << 30, uint64_t{600}, uint64_t{1}}) {
    fs::remove_all(model());
    fs::create_directories(model());
    write("config.json", "{}");
    formats::SaveOptions options;
    options.shard_bytes = limit;
    formats::save_model(model(), sources, options);
    EXPECT_EQ(fs::exists(model() / "model.safetensors.index.json"), limit < 1000);
    if (limit == 600) {
      EXPECT_TRUE(fs::exists(model() / "model-00001-of-00004.safetensors"));
    }
    ModelDirectory directory(model());
    ASSERT_EQ(directory.tensors().size(), 7u);
    for (int i = 0; i < 7; ++i) {
      const auto& entry = directory.tensors().at("t" + std::to_string(i));
      std::vector<float> back(64);
      entry.file->read(*entry.info, DType::f32, back.data());
      EXPECT_EQ(back, values[static_cast<size_t>(i)]);
    }
    if (limit < 1000) {
      const Json root = read_json(model() / "model.safetensors.index.json");
      EXPECT_EQ(root["metadata"]["total_size"], 7 * 256);
    }
  }
}

TEST_F(Directory, RefusesWhatIsNoModelDirectory) {
  EXPECT_THROW(ModelDirectory(root_ / "nowhere"), Error);
  EXPECT_THROW(ModelDirectory(model() / "config.json"), Error);
  EXPECT_NE(refusal().find("safetensors"), std::string::npos);
  for (const char* text : {"[]", "", "{", "{\"a\":1,\"a\":2}", "nul"}) {
    write("config.json", text);
    EXPECT_THROW(ModelDirectory{model()}, Error) << text;
  }
}

TEST_F(Directory, AnIndexCannotLeadOutside) {
  tensors(root_ / "outside.safetensors", {"a"});
  fs::create_directories(model() / "sub");
  tensors(model() / "sub/inner.safetensors", {"a"});
  fs::create_symlink("../outside.safetensors", model() / "link.safetensors");
  fs::create_directory_symlink("..", model() / "up");
  const std::string absolute = (root_ / "outside.safetensors").string();
  for (const std::string& name : {std::string("../outside.safetensors"), absolute, std::string("sub/inner.safetensors"),
                                  std::string("up/outside.safetensors"), std::string("link.safetensors"), std::string(".."),
                                  std::string("."), std::string(), std::string("..\\\\outside.safetensors")}) {
    index("{\"a\":\"" + name + "\"}");
    EXPECT_NE(refusal().find("outside of"), std::string::npos) << name << ": " << refusal();
  }
  index("{\"a\":\"link.safetensors\\u0000x\"}");
  EXPECT_NE(refusal(), "");
  // A link that stays inside is fine.
  tensors(model() / "real.safetensors", {"a"});
  fs::create_symlink("real.safetensors", model() / "inside.safetensors");
  index(R"({"a":"inside.safetensors"})");
  EXPECT_EQ(refusal(), "");
}

TEST_F(Directory, TheSingleFileCannotBeALinkToTheOutside) {
  tensors(root_ / "outside.safetensors", {"a"});
  fs::create_symlink("../outside.safetensors", model() / "model.safetensors");
  EXPECT_NE(refusal().find("outside of"), std::string::npos);
}

TEST_F(Directory, AHuggingFaceCacheMayLinkToItsBlobs) {
  const fs::path snapshot = root_ / "models--x/snapshots/abc", blobs = root_ / "models--x/blobs";
  fs::create_directories(snapshot);
  fs::create_directories(blobs);
  tensors(blobs / "0123", {"a"});
  std::ofstream(snapshot / "config.json") << "{}";
  fs::create_symlink("../../blobs/0123", snapshot / "model.safetensors");
  EXPECT_EQ(ModelDirectory(snapshot).tensors().size(), 1u);
}

TEST_F(Directory, AnIndexThatLiesIsNamed) {
  tensors(model() / "1.safetensors", {"a", "b"});
  index(R"({"a":"1.safetensors","b":"1.safetensors","c":"1.safetensors"})");
  EXPECT_NE(refusal().find("\"c\""), std::string::npos) << refusal();
  index(R"({"a":"1.safetensors"})");
  EXPECT_NE(refusal().find("\"b\""), std::string::npos) << refusal();
  index(R"({"a":"1.safetensors","b":"2.safetensors"})");
  EXPECT_NE(refusal().find("2.safetensors"), std::string::npos) << refusal();
  index(R"({"a":1})");
  EXPECT_NE(refusal().find("\"a\""), std::string::npos) << refusal();
  for (const char* map : {"[]", "1", "null"}) {
    index(map);
    EXPECT_NE(refusal().find("weight_map"), std::string::npos) << map;
  }
}

}  // namespace
}  // namespace attune
