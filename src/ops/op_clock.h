// Where the time of a step goes. Every op books its work before it computes (ops/context.h): from one booking to the next the
// time is that op's, with the little that happens around it, so that the parts add up to the whole.
#pragma once

#include "ops/ledger.h"

namespace attune::ops {

class OpClock {
 public:
  struct Entry {
    double seconds = 0;
    Ledger::Entry done;
  };
  void start();  // forgets what was
  void book(const Job& job, double rows, const Work& work);
  void stop();

  const std::map<Job, Entry>& entries() const { return entries_; }
  double outside() const { return outside_; }  // before the first op
  double total() const { return total_; }      // from start to stop: outside and all entries

 private:
  void hand_over();

  std::map<Job, Entry> entries_;
  Entry* now_ = nullptr;  // whose time runs; null: outside
  double begin_ = 0, since_ = 0, outside_ = 0, total_ = 0;
};

}  // namespace attune::ops
