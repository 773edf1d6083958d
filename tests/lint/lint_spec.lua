--- Each check goes red on a bad sample, and stays green beside a good one.

local checks = require("tests.lint.checks")
local names = require("tests.lint.names")
local tree_of = require("tests.lint.tree")

-- A tree of its own with these files and this one's settings, handed to fn and removed.
local function with_tree(files, fn)
    local root = assert(tree_of.shell("/", "mktemp -d")):gsub("\n", "")
    assert(select(2, tree_of.shell(".", "cp .clang-format .luacheckrc " .. root)))
    for name, text in pairs(files) do
        tree_of.shell(root, "mkdir -p " .. tree_of.quote(name:match("^(.*)/") or "."))
        local file = assert(io.open(root .. "/" .. name, "w"))
        file:write(text)
        file:close()
    end
    local ok, err = pcall(fn, tree_of.open(root))
    tree_of.shell("/", "rm -r " .. tree_of.quote(root))
    assert(ok, err)
end

local engine, spec, script = "engine/base/a.c", "tests/spec/a_spec.lua", "scripts/a.lua"

-- The check finds one problem in the file, and says these words about it.
local function red(check, name, text, words)
    with_tree({ [name] = text }, function(tree)
        local problems = checks[check](tree)
        assert.are.equal(1, #problems, table.concat(problems, "\n"))
        assert.matches(words, problems[1])
    end)
end

local function green(check, files)
    with_tree(files, function(tree)
        assert.are.same({}, checks[check](tree))
    end)
end

describe("lint: includes", function()
    it("point down only", function()
        red("include_direction", "engine/pg/a.c", '#include "moonrise/conn/db.h"\n',
            "engine/pg/a.c:1: pg may not include conn")
        red("include_direction", "include/moonrise/base/a.h", "\n#include <moonrise/pg/lsn.h>\n",
            "a.h:2: base may not include pg")
        green("include_direction", {
            ["engine/wal/a.c"] = '#include "moonrise/pg/lsn.h"\n#include "moonrise/wal/a.h"\n',
            ["engine/lua/a.c"] = '#include "moonrise/agent/agent.h"\n',
        })
    end)

    it("know the folders there are", function()
        red("include_direction", "engine/misc/a.c", "\n", "there is no folder misc")
        red("include_direction", "engine/pg/a.c", '#include "moonrise/misc/a.h"\n',
            "there is no folder misc")
    end)

    it("do not reach into another folder's inside", function()
        red("include_direction", "engine/wal/a.c", '#include "../pg/inner.h"\n', "is in include/")
        green("include_direction", { ["engine/wal/a.c"] = '#include "inner.h"\n' })
    end)

    it("keep each library in its folder", function()
        local bad = {
            ["lua.h"] = "wire", ["lauxlib.h"] = "cli", ["luajit.h"] = "loop",
            ["libpq-fe.h"] = "probe",
            ["libssh/libssh.h"] = "agent", ["uv.h"] = "conn", ["jansson.h"] = "agent",
            ["xxhash.h"] = "patch", ["zstd.h"] = "patch", ["lz4.h"] = "base",
        }
        for header, folder in pairs(bad) do
            red("foreign_headers", "engine/" .. folder .. "/a.c", "#include <" .. header .. ">\n",
                "belongs to engine/")
        end
        red("foreign_headers", "engine/base/str.c", "#include <xxhash.h>\n", "engine/base/hash")
        green("foreign_headers", {
            ["engine/base/hash.c"] = "#include <xxhash.h>\n",
            ["engine/loop/a.c"] = "#include <uv.h>\n",
            ["engine/stream/a.c"] = "#include <libpq-fe.h>\n",
            ["engine/lua/a.c"] = "#include <lua.h>\n",
        })
    end)

    it("leave ending the process to cli", function()
        red("exits", engine, "int\nf(void)\n{\n    exit(1);\n}\n", "a.c:4: only engine/cli")
        green("exits", {
            [engine] = '/* exit(1) */\nint\nf(void)\n{\n    puts("exit(1)");\n    _exit(1);\n}\n',
            ["engine/cli/main.c"] = "int\nmain(void)\n{\n    exit(1);\n}\n",
        })
    end)
end)

describe("lint: lengths", function()
    local function c_function(lines, list)
        return ("int\nf%s\n{\n%s}\n"):format(list or "(void)", ("    x();\n"):rep(lines))
    end

    it("of files", function()
        red("file_length", script, ("\n"):rep(501), "501 lines")
        red("file_length", "README.md", ("\n"):rep(251), "limit is 250")
        green("file_length", { [engine] = ("\n"):rep(500) })
    end)

    it("of lines", function()
        red("width", script, "-- " .. ("x"):rep(98) .. "\n", "a.lua:1: 101 columns")
        red("width", "scripts/lib/a.sql", ("x"):rep(101) .. "\n", "101 columns")
        red("width", "Makefile", ("x"):rep(101) .. "\n", "101 columns")
        local annotation, wide = "---@param " .. ("x"):rep(100), "-- " .. ("é"):rep(97)
        green("width", { [script] = annotation .. "\n" .. wide .. "\n" })
    end)

    it("of C functions", function()
        red("c_functions", engine, c_function(77), "a.c:1: f has 81 lines")
        green("c_functions", { [engine] = c_function(76) .. c_function(76) })
    end)

    it("of C parameter lists", function()
        local six = "(int a, int b, void (*c)(int, int), int d, int e, int f)"
        red("c_functions", engine, c_function(1, six), "f has 6 parameters")
        green("c_functions", { [engine] = c_function(1, (six:gsub(", int f%)", ")"))) })
    end)

    it("of a C head: the return type on its own line", function()
        red("c_functions", engine, "static int f(int a)\n{\n}\n", "return type of f")
    end)

    it("of Lua functions", function()
        local body = ("    if x then y() end\n"):rep(39)
        red("lua_functions", script, "local M = {}\nfunction M.f()\n" .. body .. "end\n",
            "a.lua:2: M.f has 41 lines")
        green("lua_functions", {
            [script] = "function M.f()\n" .. body:sub(23) .. "end\n",
            [spec] = 'describe("x", function()\n' .. body .. "end)\n",
        })
        red("lua_functions", spec, 'it("x", function()\n' .. body .. "end)\n",
            "41 lines")
    end)

    it("of Lua functions, whatever stands in texts and comments", function()
        local text = "local function f()\n    g('end', [=[ end ]=]) -- end\n--[[ end\n]]\n"
        red("lua_functions", script, text .. ("    x()\n"):rep(36) .. "end\n", "41 lines")
    end)

    it("of Lua parameter lists", function()
        red("lua_functions", script, "local function f(a, b, c, d, e, g) end\n",
            "f has 6 parameters")
        green("lua_functions", { [script] = "local f = function(a, b, c, d, ...) end\n" })
    end)
end)

describe("lint: the rest", function()
    it("keeps pure files pure", function()
        red("pure_files", "scripts/lib/fts.lua", "\nlocal now = os.time()\n", "fts.lua:2: os")
        red("pure_files", "scripts/lib/guard.lua", "return math.random()\n", "random")
        red("pure_files", "scripts/lib/fts.lua", 'local mr = require("moonrise")\n', "engine")
        green("pure_files", {
            ["scripts/lib/fts.lua"] = "-- os.time() would be wrong\nreturn x.os\n",
            ["scripts/lib/term.lua"] = "return os.time()\n",
        })
    end)

    it("keeps the top level as it is", function()
        red("top_level", "notes.txt", "\n", "notes.txt")
        red("top_level", "docs/a.md", "\n", "docs")
        green("top_level", { Makefile = "\n", [".luacheckrc"] = "\n", ["tests/a"] = "\n" })
    end)

    it("finds waiting for time to pass", function()
        local word = "sle" .. "ep"
        for _, call in ipairs({ "mr." .. word .. "(5)", "u" .. word .. "(5)", word .. " 5",
            "nano" .. word .. "(&t)" }) do
            red("naps", spec, call .. "\n", "wait for a condition")
            green("naps", { ["tests/bench/a.lua"] = call .. "\n" })
        end
        green("naps", { [spec] = "asleep()\nlocal nap = system." .. word .. "\n" })
        -- A statement that takes long is something to test against.
        green("naps", { [spec] = "select pg_" .. word .. "(60)\n" })
    end)

    it("finds errors that are lost", function()
        local file = "scripts/lib/a.lua"
        red("lost_errors", file, "ok, err = ok and f(x), " .. "err\n", "is lost")
        red("lost_errors", file, "local a, why = b and c.d(e(f)), " .. "why\n", "is lost")
        green("lost_errors", { [file] = "ok, err = f(a and b), err\n" ..
            "return ok and f(), err\nok, err = ok and a or b, err\n" })
    end)

    it("finds what is unfinished", function()
        red("unfinished", engine, "/* TO" .. "DO: more */\n", "unfinished")
        green("unfinished", { [engine] = "/* XX" .. "XX todo */\n" })
    end)

    it("finds variables that outlive a call", function()
        local function problems(text)
            local found
            with_tree({ ["a.c"] = text .. "\n" }, function(tree)
                assert(select(2, tree_of.shell(tree.root, "gcc -fPIC -c a.c -o a.o")))
                found = checks.globals(tree, "a.o")
            end)
            return table.concat(found, " ")
        end
        assert.matches("^counter: ", problems("int counter;"))
        assert.matches("^hidden", problems("int f(void) { static int hidden; return hidden++; }"))
        assert.matches("^own: ", problems("_Thread_local int own;"))
        assert.matches("^list: ", problems('const char *list[] = {"a"};'))
        assert.are.equal("", problems('static const char *const list[] = {"a"};\n' ..
            "const char *const *f(void) { return list; }"))
        assert.matches("no such file", problems("") .. table.concat(
            checks.globals({ root = "." }, "/nowhere/a.o")):lower())
    end)

    it("asks clang-format", function()
        red("clang_format", engine, "int   x;\n", "a.c:1")
        green("clang_format", { [engine] = "int x;\n" })
    end)

    it("asks luacheck", function()
        red("luacheck", script, "x = 1\n", "non%-standard global")
        red("luacheck", "policies/a.lua", "return os.time()\n", "undefined variable 'os'")
        green("luacheck", { ["policies/a.lua"] = "return tostring(1)\n", [spec] = "describe()\n" })
    end)
end)

describe("lint: annotations", function()
    local text = "function mr.connect(o) end\nmr.version = \"\"\nfunction Conn:query(sql) end\n"
    local function module(methods)
        local function classes()
            return { Conn = methods }
        end
        return { connect = print, version = "", _classes = classes }
    end

    local function compare(mr)
        return names.compare(names.annotated(text), names.bound(mr))
    end

    it("agree with the bindings", function()
        assert.are.same({}, compare(module({ query = print })))
        assert.are.same({}, compare(module({ "query", "__gc" })))
    end)

    it("miss nothing, and invent nothing", function()
        assert.are.same({ "Conn:close is reachable and not annotated" },
            compare(module({ "query", "close" })))
        assert.are.same({ "Conn:query is annotated and does not exist" },
            compare(module({})))
        local mr = module({ "query" })
        mr.extra, mr.connect = print, nil
        assert.are.same({ "connect is annotated and does not exist",
            "extra is reachable and not annotated" }, compare(mr))
    end)

    it("need a module that tells its methods", function()
        assert.is_nil((names.bound({ connect = print })))
    end)
end)
