var e=void 0;export{e as default};
