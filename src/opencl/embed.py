"""Writes the kernel sources as one C file: embed.py OUTPUT SOURCE... Arrays, as C promises strings of 4095 characters only."""
import os
import sys

with open(sys.argv[1], "w", encoding="ascii") as out:
    names = []
    out.write('#include "opencl/program.h"\n')
    for path in sys.argv[2:]:
        names.append(os.path.splitext(os.path.basename(path))[0])
        with open(path, "rb") as source:
            text = source.read().decode("ascii")
        out.write("\nstatic const char text_%s[] = {\n" % names[-1])
        for line in text.splitlines(keepends=True):
            out.write("    " + ", ".join(str(ord(c)) for c in line) + ",\n")
        out.write("    0};\n")
    out.write("\nconst mka_cl_source mka_cl_sources[] = {\n")
    for name in names:
        out.write('    {"%s", text_%s},\n' % (name, name))
    out.write("    {0, 0},\n};\n")
