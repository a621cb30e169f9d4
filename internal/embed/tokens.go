package embed

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// words calls yield with each word of the text, in order and in lower case. A word is a run of letters,
// digits and the marks that follow them. In scripts that are written without spaces each character is a word,
// so that word bigrams are character bigrams there. Bytes that are not UTF-8 separate words. The text is
// normalised to NFKC, so that composed and decomposed accents and full-width forms are equal. The slice is
// valid until yield returns: it is part of buffer, which words returns, possibly grown.
func words(text string, buffer []rune, yield func(word []rune)) []rune {
	if !ascii(text) && !norm.NFKC.IsNormalString(text) {
		text = norm.NFKC.String(text)
	}
	word := buffer[:0]
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			i++
			if lower := asciiWord[c]; lower != 0 {
				word = append(word, rune(lower))
			} else if len(word) > 0 {
				yield(word)
				word = word[:0]
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		part := unicode.IsLetter(r) || unicode.IsDigit(r) || len(word) > 0 && unicode.IsMark(r)
		single := part && r >= firstUnspaced && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana)
		if len(word) > 0 && (!part || single) {
			yield(word)
			word = word[:0]
		}
		if part {
			word = append(word, unicode.ToLower(r))
		}
		if single {
			yield(word)
			word = word[:0]
		}
	}
	if len(word) > 0 {
		yield(word)
	}
	return word
}

// firstUnspaced is the lowest character of the scripts that are written without spaces. Comparing with it is
// cheaper than a look-up in the tables.
const firstUnspaced = '\u2e80'

// asciiWord maps ASCII letters and digits to lower case, and everything else to zero.
var asciiWord = func() (table [utf8.RuneSelf]byte) {
	for c := byte('0'); c <= '9'; c++ {
		table[c] = c
	}
	for c := byte('a'); c <= 'z'; c++ {
		table[c], table[c-'a'+'A'] = c, c
	}
	return table
}()

func ascii(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
