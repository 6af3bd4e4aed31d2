#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "train/run_log.h"
#include "util/error.h"

namespace attune::train {
namespace {

constexpr double kWidth = 860, kHeight = 420, kLeft = 64, kRight = 20, kTop = 44, kBottom = 48;

struct Point {
  double step, loss;
};

std::vector<Point> series(const Json& history, const char* key) {
  std::vector<Point> out;
  for (const Json& e : history)
    if (e.contains(key) && e[key].is_number()) out.push_back({e["step"].get<double>(), e[key].get<double>()});
  return out;
}

// Worth drawing only where there are enough points to hide each other.
std::vector<Point> smoothed(const std::vector<Point>& raw) {
  if (raw.size() < 30) return {};
  std::vector<Point> out = raw;
  const double keep = raw.size() > 100 ? 0.9 : 0.7;
  for (size_t i = 1; i < out.size(); ++i) out[i].loss = keep * out[i - 1].loss + (1 - keep) * raw[i].loss;
  return out;
}

// A round tick distance for about five ticks.
double tick_of(double range) {
  const double rough = std::max(range, 1e-9) / 5, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (double m : {1.0, 2.0, 5.0})
    if (rough <= m * power) return m * power;
  return 10 * power;
}

}  // namespace

std::string loss_curve_svg(const Json& history) {
  const auto raw = series(history, "loss"), eval = series(history, "eval_loss"), smooth = smoothed(raw);
  double last = 1, low = 1e300, high = -1e300;
  for (const auto* s : {&raw, &eval})
    for (const Point& p : *s) last = std::max(last, p.step), low = std::min(low, p.loss), high = std::max(high, p.loss);
  if (low > high) low = 0, high = 1;
  const double margin = std::max(0.05 * (high - low), 1e-3);
  low = std::max(0.0, low - margin);
  high += margin;
  const auto x = [&](double step) { return kLeft + (kWidth - kLeft - kRight) * step / last; };
  const auto y = [&](double loss) { return kHeight - kBottom - (kHeight - kTop - kBottom) * (loss - low) / (high - low); };
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{}\" y=\"24\" font-size=\"15\">Training loss</text>\n",
      kWidth, kHeight, kLeft);
  for (double t = std::ceil(low / tick_of(high - low)) * tick_of(high - low); t <= high; t += tick_of(high - low))
    out += fmt::format("<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e5e5e5\"/><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#555\">{:.4g}</text>\n",
                       kLeft, kWidth - kRight, y(t), y(t), kLeft - 8, y(t) + 4, t);
  for (double t = 0; t <= last; t += tick_of(last))
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{:.0f}</text>\n", x(t), kHeight - kBottom + 18, t);
  out += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\" fill=\"#555\">step</text>\n", (kLeft + kWidth) / 2, kHeight - 10);
  const auto line = [&](const std::vector<Point>& points, const char* colour, double width, const char* name, double legend) {
    if (points.empty()) return;
    out += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" points=\"", colour, width);
    for (const Point& p : points) out += fmt::format("{:.1f},{:.1f} ", x(p.step), y(p.loss));
    out += fmt::format("\"/>\n<line x1=\"{0}\" x2=\"{1}\" y1=\"20\" y2=\"20\" stroke=\"{2}\" stroke-width=\"3\"/><text x=\"{3}\" y=\"24\">{4}</text>\n",
                       legend, legend + 22, colour, legend + 28, name);
  };
  line(raw, smooth.empty() ? "#1f4fa8" : "#b9cdf0", smooth.empty() ? 2 : 1, "loss", 420);
  line(smooth, "#1f4fa8", 2, "smoothed", 520);
  line(eval, "#c8501e", 2, "validation", 650);
  for (const Point& p : eval) out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"#c8501e\"/>\n", x(p.step), y(p.loss));
  return out + "</svg>\n";
}

}  // namespace attune::train
