--- `make lint`: runs every check on this tree and reports as TAP, one line a check.

package.path = "./?.lua;" .. package.path
local checks = require("tests.lint.checks")
local names = require("tests.lint.names")
local tree = require("tests.lint.tree").open(".")

local build = os.getenv("BUILD") or "build"

local function names_check()
    return names.check(tree, build)
end

local function globals_check()
    return checks.globals(tree, build .. "/moonrise")
end

local order = {
    { "the top level holds what it should", checks.top_level },
    { "includes point down", checks.include_direction },
    { "libraries stay in their folder", checks.foreign_headers },
    { "only cli exits", checks.exits },
    { "files are short", checks.file_length },
    { "lines are short", checks.width },
    { "C functions are short, with few parameters", checks.c_functions },
    { "Lua functions are short, with few parameters", checks.lua_functions },
    { "pure files are pure", checks.pure_files },
    { "tests wait for conditions", checks.naps },
    { "no error is lost after `and`", checks.lost_errors },
    { "nothing is unfinished", checks.unfinished },
    { "C is formatted", checks.clang_format },
    { "luacheck has nothing to say", checks.luacheck },
    { "no variable is global and mutable", globals_check },
    { "annotations and bindings agree", names_check },
}

local failed = 0
for number, check in ipairs(order) do
    local problems = check[2](tree)
    io.write(#problems == 0 and "ok " or "not ok ", number, " - ", check[1], "\n")
    for _, problem in ipairs(problems) do
        io.write((problem:gsub("[^\n]+", "#   %0")), "\n")
    end
    failed = failed + (#problems == 0 and 0 or 1)
end
io.write("1..", #order, "\n")
os.exit(failed == 0 and 0 or 1)
