// What a test says about an error that it expects.
#pragma once

#include <string>

#include "util/error.h"

namespace attune::test {

// The message of the error that `action` throws; empty where it throws none.
template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace attune::test
