// Adam and Lion with states in 8 bits and one fp32 scale for 256 elements, as bitsandbytes' block-wise optimizers.
//
// m is stored by the signed map, v by the unsigned one (ops/dynamic_map.h): code = nearest to x·(1/largest |x| of the
// block). A negative m never becomes 0, as there. The parameter is stepped with the moments before they are rounded.
// A block whose largest value is subnormal becomes zero.
#pragma once

#include "ops/dynamic_map.h"
#include "ops/optimizer.h"

namespace attune::ops {

// Codes u8 of the parameter's size and scales f32, one a block counted from the start of the whole parameter:
// Stepped::first_element is a multiple of 256.
struct State8bit {
  Tensor codes, scales;
};

// As Adam. 2.03 bytes a parameter of states; 10 bytes moved for bf16 weights and gradients.
struct Adam8bit {
  Stepped of;
  State8bit m, v;
  float beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float correction1 = 1, correction2 = 1;
};
void adam_8bit(Context& context, const Adam8bit& args);

// As Lion.
struct Lion8bit {
  Stepped of;
  State8bit m;
  float beta1 = 0.9f, beta2 = 0.99f;
};
void lion_8bit(Context& context, const Lion8bit& args);

}  // namespace attune::ops
