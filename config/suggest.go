package config

import "strings"

// nearest returns the known name that the given one is most likely a typo of,
// or "".
func nearest(given string, known []string) string {
	best, bestDist := "", max(2, len(given)/3)+1
	for _, k := range known {
		d := distance(strings.ToLower(given), strings.ToLower(k))
		// A name of which every letter is wrong is not a typo.
		if d < bestDist && d < max(len(given), len(k)) {
			best, bestDist = k, d
		}
	}
	return best
}

// didYouMean returns a sentence that suggests the nearest name, or "".
func didYouMean(given string, known []string) string {
	if n := nearest(given, known); n != "" {
		return " Did you mean " + n + "?"
	}
	return ""
}

// distance is the Damerau-Levenshtein distance (optimal string alignment) of
// two names.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// list joins words for a sentence: "a, b or c".
func list(words []string, last string) string {
	switch len(words) {
	case 0:
		return ""
	case 1:
		return words[0]
	}
	n := len(words) - 1
	return strings.Join(words[:n], ", ") + " " + last + " " + words[n]
}

func quoteAll(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = `"` + w + `"`
	}
	return out
}
