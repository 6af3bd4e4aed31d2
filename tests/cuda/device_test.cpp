// The device behind tensor/device.h, and what a call's workspace is.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "ops/cuda/gemm_plan.h"
#include "support/backends.h"

extern "C" const attune::ops::Backend* attune_cuda_backend_dry();

namespace attune {
namespace {

TEST(CudaDevice, UploadsOfEverySizeArriveThoughTheirSourceChanges) {
  Device& device = test::cuda_for_tests().device();
  // More than all staging memory, in pieces that do not divide it.
  constexpr uint64_t kBytes = (uint64_t{40} << 20) + 12345;
  void* memory = device.reserve(kBytes);
  ASSERT_NE(memory, nullptr);
  ASSERT_TRUE(device.commit(memory, kBytes));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0u);
  std::vector<unsigned char> piece(700001), back(kBytes), expected(kBytes);
  for (uint64_t at = 0; at < kBytes; at += piece.size()) {
    const uint64_t n = std::min<uint64_t>(piece.size(), kBytes - at);
    for (uint64_t i = 0; i < n; ++i) piece[i] = expected[at + i] = static_cast<unsigned char>((at + i) * 2654435761u >> 13);
    device.upload(static_cast<char*>(memory) + at, piece.data(), n);
  }
  device.download(back.data(), memory, kBytes);
  EXPECT_EQ(back, expected);
  device.zero(memory, 100);
  device.copy(static_cast<char*>(memory) + 1000, memory, 100);
  device.download(back.data(), memory, 2000);
  EXPECT_EQ(back[99], 0);
  EXPECT_EQ(back[100], expected[100]);
  EXPECT_EQ(back[1050], 0);
  device.synchronize();
  device.release(memory, kBytes);
}

TEST(CudaDevice, MoreMemoryThanThereIsIsNoError) {
  Device& device = test::cuda_for_tests().device();
  constexpr uint64_t kBytes = uint64_t{1} << 40;
  void* range = device.reserve(kBytes);
  ASSERT_NE(range, nullptr);
  EXPECT_TRUE(device.commit(range, 1000));
  EXPECT_FALSE(device.commit(range, kBytes));
  device.release(range, kBytes);
}

TEST(CudaBackend, TheDryTableIsThatOfARun) {
  const ops::Backend* dry = attune_cuda_backend_dry();
  ASSERT_NE(dry, nullptr);
  EXPECT_EQ(dry, &test::cuda_for_tests());
  EXPECT_GT(dry->threads(), 0);
}

Tensor matrix(DType dtype, int64_t rows, int64_t cols, int64_t capacity = 0) {
  static char memory[4096];
  Tensor t = Tensor::matrix(memory, dtype, rows, cols);
  t.rows.capacity = std::max(rows, capacity);
  return t;
}

TEST(CudaGemmPlan, CopiesOnlyWhatTheLibraryHasNoProductFor) {
  const auto bytes = [](DType a, DType b, DType c) { return ops::cuda::plan_of({matrix(a, 64, 32), matrix(b, 16, 32), matrix(c, 64, 16), false, true, false}).bytes; };
  const uint64_t none = bytes(DType::f32, DType::f32, DType::f32);
  EXPECT_GE(none, ops::cuda::GemmPlan::kLibrary);
  using enum DType;
  for (auto [a, b, c] : {std::array{f32, f32, f32}, std::array{bf16, bf16, bf16}, std::array{bf16, bf16, f32}, std::array{f16, f16, f16}, std::array{f16, f16, f32}}) EXPECT_EQ(bytes(a, b, c), none);
  EXPECT_EQ(bytes(bf16, f32, f32), none + 64 * 32 * 4);
  EXPECT_EQ(bytes(f32, bf16, f32), none + 16 * 32 * 4);
  EXPECT_EQ(bytes(f32, f32, bf16), none + 64 * 16 * 4);
  EXPECT_EQ(bytes(bf16, bf16, f16), none + 64 * 16 * 4);
  EXPECT_EQ(bytes(bf16, f16, f16), none + (64 * 32 + 16 * 32 + 64 * 16) * 4);
}

TEST(CudaGemmPlan, WorkspaceFollowsFromCapacityAndWorkFromTheCount) {
  const ops::Gemm g{matrix(DType::bf16, 3, 32, 64), matrix(DType::f32, 16, 32), matrix(DType::f32, 3, 16, 64), false, true, false};
  const ops::cuda::GemmPlan plan = ops::cuda::plan_of(g);
  EXPECT_EQ(plan.library, 64 * 32 * 4u);
  static std::vector<char> workspace(plan.bytes);
  const auto copies = ops::cuda::copies_of(g, plan, workspace.data());
  const ops::cuda::Product p = ops::cuda::product_of(g, plan, copies, workspace.data());
  EXPECT_EQ(p.m, 16);
  EXPECT_EQ(p.n, 3);
  EXPECT_EQ(p.k, 32);
  EXPECT_TRUE(p.a.transpose);
  EXPECT_FALSE(p.b.transpose);
  EXPECT_EQ(p.b.data, workspace.data());
  EXPECT_EQ(p.a.dtype, p.b.dtype);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(p.workspace) % 256, 0u);
  EXPECT_LE(static_cast<char*>(p.workspace) + p.workspace_bytes, workspace.data() + plan.bytes);
}

}  // namespace
}  // namespace attune
