// Singular vectors by Eigen 3; the only file that includes it is eigen.cpp.
#pragma once

#include "ops/optimizer_low_rank.h"

namespace attune::ops::eigen {

uint64_t workspace(const SingularVectors& args);
void singular_vectors(const SingularVectors& args);

}  // namespace attune::ops::eigen
