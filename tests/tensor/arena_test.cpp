#include "tensor/arena.h"

#include <gtest/gtest.h>

#include <cstring>

#include "util/error.h"

namespace attune {
namespace {

TEST(Arena, IsAStackOfAlignedPieces) {
  Arena arena(Place::host(), 1 << 16);
  auto* a = static_cast<char*>(arena.allocate(1));
  const Arena::Mark mark = arena.mark();
  auto* b = static_cast<char*>(arena.allocate(100));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 64, 0u);
  EXPECT_EQ(b - a, 64);
  EXPECT_EQ(arena.used(), 192u);
  arena.release(mark);
  EXPECT_EQ(arena.used(), 64u);
  EXPECT_EQ(arena.allocate(8), b) << "what was released is handed out again";
  EXPECT_EQ(arena.high_water(), 192u);
  arena.release(0);
  arena.reset_high_water();
  EXPECT_EQ(arena.high_water(), 0u);
}

TEST(Arena, ScopesNest) {
  Arena arena(Place::host(), 1 << 16);
  {
    ArenaScope outer(arena);
    arena.allocate(64);
    {
      ArenaScope inner(arena);
      arena.allocate(640);
    }
    EXPECT_EQ(arena.used(), 64u);
  }
  EXPECT_EQ(arena.used(), 0u);
}

TEST(Arena, FailsBeyondItsCapacityAndOnReleaseOutOfOrder) {
  Arena arena(Place::host(), 256);
  arena.allocate(192);
  EXPECT_THROW(arena.allocate(65), Error);
  EXPECT_THROW(arena.allocate(~uint64_t{0} - 8), Error);
  EXPECT_EQ(arena.used(), 192u);
  EXPECT_THROW(arena.release(256), Error);
  arena.allocate(64);
}

TEST(Arena, LaysOutForTheCapacityOfRowsNotForTheirCount) {
  Arena arena(Place::host(), 1 << 16);
  const Tensor t = arena.matrix({3, 16}, 4, DType::f32);
  EXPECT_EQ(arena.used(), 16u * 4 * 4);
  EXPECT_EQ(t.count(), 12);
  EXPECT_EQ(t.bytes(), 256u);
  const Tensor slice = t.columns(1, 2);
  EXPECT_EQ(slice.stride, 4);
  EXPECT_FALSE(slice.contiguous());
  EXPECT_EQ(slice.row<float>(2), t.row<float>(2) + 1);
  EXPECT_EQ(t.slice(2, 1).row<float>(0), t.row<float>(2));
}

TEST(Arena, ADryArenaMeasuresLikeARealOne) {
  Arena dry(Place::dry(), uint64_t{1} << 42), real(Place::host(), 1 << 20);
  for (Arena* arena : {&dry, &real}) {
    ArenaScope scope(*arena);
    arena->matrix(Rows::exactly(33), 7, DType::bf16);
    arena->vector(129, DType::i64);
  }
  EXPECT_EQ(dry.high_water(), real.high_water());
}

TEST(ArenaDeathTest, APeekAtADryValueCrashes) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  Arena dry(Place::dry(), uint64_t{1} << 42);
  const Tensor t = dry.matrix(Rows::exactly(2), 2, DType::f32);
  EXPECT_DEATH({
    volatile float x = *static_cast<volatile float*>(t.row<float>(1));
    (void)x;
  }, "");
  EXPECT_DEATH(std::memset(t.data, 0, 4), "");
}

}  // namespace
}  // namespace attune
