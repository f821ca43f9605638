package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode/utf8"
	"unsafe"
)

// Terminal is a pseudo-terminal in which a command runs, with what it shows.
type Terminal struct {
	t     testing.TB
	cmd   *exec.Cmd
	side  *os.File // ours
	width int
	ended chan struct{}

	mu    sync.Mutex
	lines [][]rune
	row   int
	col   int
}

// Terminal runs rowhook with the arguments, as Command does, in a terminal of so many columns.
func (d *Daemon) Terminal(width int, args ...string) *Terminal {
	d.t.Helper()
	side, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	var unlocked, number int32
	size := struct{ rows, columns, x, y uint16 }{rows: 24, columns: uint16(width)}
	for request, arg := range map[uintptr]unsafe.Pointer{
		syscall.TIOCSPTLCK: unsafe.Pointer(&unlocked), syscall.TIOCGPTN: unsafe.Pointer(&number), syscall.TIOCSWINSZ: unsafe.Pointer(&size),
	} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, side.Fd(), request, uintptr(arg)); errno != 0 {
			d.t.Fatalf("pseudo-terminal: %v", errno)
		}
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer tty.Close()
	t := &Terminal{t: d.t, cmd: exec.Command(d.o.Binary, d.folders(args)...), side: side, width: width, ended: make(chan struct{}), lines: [][]rune{nil}}
	t.cmd.Dir, t.cmd.Env = d.Dir, d.env()
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = tty, tty, tty
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := t.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go t.read()
	d.t.Cleanup(func() {
		_ = t.cmd.Process.Kill()
		<-t.ended
		_ = side.Close()
	})
	return t
}

// read shows what comes until the other side is closed.
func (t *Terminal) read() {
	defer close(t.ended)
	buf := make([]byte, 4096)
	var rest []byte
	for {
		n, err := t.side.Read(buf)
		rest = t.show(append(rest, buf[:n]...))
		if err != nil {
			return
		}
	}
}

// show does what the bytes say and returns those that are not whole yet. Of the control sequences
// it knows what a line that is drawn anew needs; another one is shown as it is.
func (t *Terminal) show(b []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(b) > 0 {
		if !utf8.FullRune(b) || b[0] == 0x1b && len(b) < 3 {
			break
		}
		r, n := utf8.DecodeRune(b)
		switch {
		case strings.HasPrefix(string(b), "\x1b[K"):
			n = 3
			t.lines[t.row] = t.lines[t.row][:min(t.col, len(t.lines[t.row]))]
		case r == '\r':
			t.col = 0
		case r == '\n':
			t.down()
		default:
			if t.col == t.width {
				t.col = 0
				t.down()
			}
			line := t.lines[t.row]
			for len(line) <= t.col {
				line = append(line, ' ')
			}
			line[t.col] = r
			t.lines[t.row] = line
			t.col++
		}
		b = b[n:]
	}
	return b
}

func (t *Terminal) down() {
	if t.row++; t.row == len(t.lines) {
		t.lines = append(t.lines, nil)
	}
}

// Screen returns the lines that it shows, and has shown further up.
func (t *Terminal) Screen() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	for _, l := range t.lines {
		all = append(all, string(l))
	}
	return all
}

// Wait waits until the screen is as it should be.
func (t *Terminal) Wait(what string, is func(lines []string) bool) {
	t.t.Helper()
	Eventually(t.t, Patience, func() error {
		if lines := t.Screen(); !is(lines) {
			return fmt.Errorf("the terminal does not show %s:\n%s", what, strings.Join(lines, "\n"))
		}
		return nil
	})
}

// Type types the text.
func (t *Terminal) Type(text string) {
	t.t.Helper()
	if _, err := t.side.WriteString(text); err != nil {
		t.t.Fatal(err)
	}
}

// End waits for the end of the command and returns its exit code.
func (t *Terminal) End() int {
	t.t.Helper()
	<-t.ended
	_ = t.cmd.Wait() // told by ProcessState
	return t.cmd.ProcessState.ExitCode()
}
