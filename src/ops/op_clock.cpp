#include "ops/op_clock.h"

#include "util/machine.h"

namespace attune::ops {

void OpClock::start() {
  entries_.clear();
  now_ = nullptr;
  outside_ = total_ = 0;
  begin_ = since_ = seconds_now();
}

void OpClock::hand_over() {
  const double time = seconds_now();
  (now_ ? now_->seconds : outside_) += time - since_;
  since_ = time;
}

void OpClock::book(const Job& job, double rows, const Work& work) {
  hand_over();
  now_ = &entries_[job];
  now_->done.calls += 1;
  now_->done.rows += rows;
  now_->done.work.flops += work.flops;
  now_->done.work.bytes += work.bytes;
}

void OpClock::stop() {
  hand_over();
  total_ = since_ - begin_;
}

}  // namespace attune::ops
